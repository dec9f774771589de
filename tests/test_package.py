"""What people install: a small wheel with everything in it, one version, extras by the names that are printed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import infomax as im

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LARGEST = 2_000_000  # bytes of a wheel


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", im.__version__)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == im.__version__
    first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert first.split()[1] == im.__version__
    assert metadata.version("infomax") == im.__version__, "install again: bash setup.sh"


def test_the_citation_has_what_its_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all(isinstance(citation[key], str) for key in ("message", "title", "license", "version"))
    assert citation["authors"] and all({"name"} <= set(a) or {"family-names"} <= set(a) for a in citation["authors"])
    assert citation["license"] == PROJECT["license"]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=\[ ]", requirement)[0]


def test_extras_are_those_that_are_named_and_developers_have_them():
    assert {"tables", "images", "trackers", "peers", "onnx", "hf", "shards", "emoji", "docs", "dev"} <= set(EXTRAS)
    named = set()
    for path in [*(ROOT / "infomax").rglob("*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]:
        named |= {e for each in re.findall(r"infomax\[([\w,]+)\]", path.read_text()) for e in each.split(",")}
    assert "onnx" in named and named <= set(EXTRAS), named - set(EXTRAS)
    mine = set(EXTRAS["dev"])
    for extra in ("tables", "images", "trackers", "onnx", "hf", "nifti", "shards", "emoji", "docs"):
        assert set(EXTRAS[extra]) <= mine, f"dev lacks what [{extra}] has, word for word"


def test_the_lock_has_every_direct_dependency():
    lock = (ROOT / "requirements.lock").read_text()
    locked = {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    wanted = {re.sub(r"[-_.]+", "-", name_of(r)).lower() for r in (*PROJECT["dependencies"], *EXTRAS["dev"])}
    assert wanted <= locked, wanted - locked


def test_a_release_is_installed_on_every_python_that_the_package_names():
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    tried = jobs["install"]["strategy"]["matrix"]["python"]
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.fullmatch(r"Programming .* 3\.\d+", c)]
    assert tried == named == ["3.11", "3.12", "3.13", "3.14"] and PROJECT["requires-python"] == ">=3.11"
    steps = " ".join(step.get("run", "") for step in jobs["build"]["steps"])
    assert "python -m build" in steps and "twine check --strict" in steps


def jobs_of(workflow: str) -> dict:
    return yaml.safe_load((ROOT / f".github/workflows/{workflow}.yml").read_text())["jobs"]


def commands(job: dict) -> list[list[str]]:
    """The words of each command of a job, in their order."""
    return [shlex.split(line) for step in job["steps"] for line in step.get("run", "").splitlines()]


def test_all_tests_run_on_the_lowest_python_and_the_quick_ones_on_two_others():
    check = jobs_of("ci")["check"]
    tests = {each["python"]: shlex.split(each["tests"]) for each in check["strategy"]["matrix"]["include"]}
    assert PROJECT["requires-python"] == f">={next(iter(tests))}"
    assert tests == {"3.11": [], "3.12": ["-m", "not slow"], "3.13": ["-m", "not slow"]}
    assert commands(check)[-1] == [".ci/run", "${{", "matrix.tests", "}}"]
    run, of_tests = (ROOT / ".ci/run").read_text(), (ROOT / "check.sh").read_text()
    assert 'check.sh "$@"' in run and re.search(r'^run .*pytest .*"\$@"$', of_tests, re.MULTILINE)  # and then the wheel


@pytest.mark.parametrize(("job", "python", "words"), [
    ("newest", "3.12", ["-m", "pip", "install", "--upgrade"]),
    ("lowest", "3.11", ["-m", "uv", "pip", "install", "--resolution", "lowest-direct"]),
])  # fmt: skip
def test_each_night_other_versions_than_those_of_the_lock_are_tried(job, python, words):
    nightly = jobs_of("nightly")[job]
    versions = [step["with"]["python-version"] for step in nightly["steps"] if "python-version" in step.get("with", {})]
    assert versions == [python]
    installs = [c for c in commands(nightly) if "--editable" in c]
    assert len(installs) == 1 and set(words) <= set(installs[0]) and installs[0][-1] == ".[dev]"
    assert not any("lock" in word or word.endswith("setup.sh") for c in commands(nightly) for word in c)
    assert commands(nightly)[-1][0] == ".venv/bin/pytest" and commands(nightly)[-1][-2:] == ["-m", "not slow"]


def test_every_dependency_has_a_lowest_version():
    """Which the nightly job `lowest` installs."""
    for requirement in [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]:
        assert re.search(r"(>=|==)\d", requirement), requirement


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and an sdist of the tree, built once by the build backend; the tree need not be a git checkout."""
    place = tmp_path_factory.mktemp("built")
    source = place / "source"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.name in ("infomax", "recipes"):
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, source / path.name)
    program = "from setuptools import build_meta as b; print(b.build_sdist('dist')); print(b.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, capture_output=True)
    (wheel,), (sdist,) = source.glob("dist/*.whl"), source.glob("dist/*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
def test_the_wheel_is_small_and_whole(built):
    wheel, sdist = built
    assert wheel.stat().st_size < LARGEST
    assert wheel.name == f"infomax-{im.__version__}-py3-none-any.whl"
    assert sdist.name == f"infomax-{im.__version__}.tar.gz"
    held = set(zipfile.ZipFile(wheel).namelist())
    ours = {p.relative_to(ROOT).as_posix() for p in (ROOT / "infomax").rglob("*.py")} | {"infomax/py.typed"}
    ours |= {f"infomax/recipes/{p.name}" for p in (ROOT / "recipes").glob("*.py")}
    assert {name for name in held if "dist-info" not in name} == ours
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {name.replace("infomax/recipes/", "recipes/") for name in ours} <= names


@pytest.mark.slow
@pytest.mark.parametrize("form", [0, 1], ids=["wheel", "sdist"])
def test_what_is_installed_runs_without_the_source(built, tmp_path, form):
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", "installed"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *words, str(built[form])], cwd=tmp_path, check=True, timeout=600
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    program = (
        "import infomax, importlib.metadata as m, pathlib\n"
        "from infomax.ui.recipes import names\n"
        "print(infomax.__file__, m.version('infomax'), len(names()), (pathlib.Path(infomax.__file__).parent /"
        " 'py.typed').exists())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    file, version, recipes, typed = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path / "installed") and (version, typed) == (im.__version__, "True")
    assert int(recipes) == len(list((ROOT / "recipes").glob("*.py")))
    for words in (["objectives", "--json"], ["recipe", "moco"], ["export", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "infomax", *words], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "moco.py").read_text() == (ROOT / "recipes/moco.py").read_text()
