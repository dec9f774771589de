"""Help and lists import no torch and yet say what the registries hold; the package loads its names when asked."""

import ast
import inspect
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import rankdata

import infomax as im
from infomax import estimation, objectives
from infomax.estimation.ranks import average_ranks
from infomax.ui import registers

HEAVY = ("torch", "numpy", "scipy", "pandas", "timm", "sklearn", "accelerate", "matplotlib", "psutil")
PROGRAM = f"""
import sys
try:
    from infomax.cli import main
    main()
finally:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["objectives"],
        ["estimators", "--json"],
        *([command, "--help"] for command in ("estimate", "matrix", "probe", "report", "recipe", "benchmark")),
        ["export", "--help"],
        ["push", "--help"],
    ],
    ids=" ".join,
)
def test_help_and_lists_import_nothing_heavy(words):
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert len(done.stdout) > 100


@pytest.mark.slow
def test_an_estimate_of_a_column_imports_no_scikit_learn():
    """Whose import, with scipy.stats and pandas behind it, takes as long as the estimate."""
    program = """
import sys, numpy, infomax
z = numpy.random.default_rng(0).standard_t(3, (200, 2))
for x in (z[:, 0], (z[:, 0] > 0).astype(int)):
    infomax.estimate(x, z.sum(1))
print([name for name in ("sklearn", "scipy.stats", "pandas") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("table", [
    np.random.default_rng(0).normal(size=(200, 3)), np.random.default_rng(1).integers(0, 4, (50, 2)),
    np.array([0.0, -0.0, 1]),
], ids=["numbers", "ties", "zeros"])  # fmt: skip
def test_ranks_are_scipys(table):
    assert np.array_equal(average_ranks(table), rankdata(table, axis=0))


@pytest.mark.parametrize(
    ("rows", "registry"),
    [
        (registers.objective_rows(), objectives.registry),
        (registers.estimator_rows(), estimation.registry),
    ],
    ids=["objectives", "estimators"],
)
def test_rows_read_from_source_are_the_registrys(rows, registry):
    assert [row["name"] for row in rows] == list(registry)
    for row in rows:
        doc = " ".join((inspect.getdoc(registry[row["name"]]) or "").split())
        assert row["call"] == repr(registry[row["name"]]())
        assert f"Ceiling: {row['ceiling']}" in doc and f"Variance: {row['variance']}" in doc
        assert doc.startswith(row["summary"].rstrip(".")[:10])
        assert f"In words: {row['words']}" in doc


def test_the_package_names_its_homes_once():
    """What type checkers read, what is loaded when asked for, and __all__ are one list of names."""
    tree = ast.parse(inspect.getsource(im))
    [typed] = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    homes = {}
    for node in typed.body:
        assert isinstance(node, ast.ImportFrom)
        homes |= {alias.name: node.module for alias in node.names}
    assert homes.keys() == set(im.__all__)
    for name, home in homes.items():
        found = getattr(__import__(str(home), fromlist=[name]), name)
        assert getattr(im, name) is found and name in dir(im)


def test_names_of_the_package_pickle_and_mistakes_are_attribute_errors():
    assert pickle.loads(pickle.dumps(im.SMILE(tau=3))).tau == 3
    assert pickle.loads(pickle.dumps(im.InfoNCE)) is im.InfoNCE
    with pytest.raises(AttributeError, match="no attribute 'InfoNEC'"):
        im.InfoNEC  # noqa: B018  # pyright: ignore
    with pytest.raises(ImportError, match="InfoNEC"):
        from infomax import InfoNEC  # noqa: F401  # pyright: ignore


def test_python_m_infomax_is_the_command_and_importing_it_runs_nothing():
    def run(*words):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout, done.stderr

    status, out, err = run("-m", "infomax", "objectives")
    assert (status, err) == (0, "") and out.startswith("InfoNCE(symmetric=False)\n")
    assert run("-m", "infomax", "--help")[1].startswith("usage: infomax ")
    status, out, err = run("-m", "infomax", "estimate", "none.npy", "none.npy")
    assert (status, out, err) == (2, "", "none.npy does not exist.\n")
    assert run("-c", "import sys; sys.argv[1:] = ['objectives']; import infomax.__main__") == (0, "", "")


@pytest.mark.parametrize(
    ("first", "chosen", "found"),
    [
        ("", {}, "PASSIVE"),
        ("import torch", {}, "None"),  # it has been read already: what is said now would be of child processes alone
        ("", {"GOMP_SPINCOUNT": "1000"}, "None"),
        ("", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
    ],
    ids=["nobody chose", "torch is loaded", "a count", "a policy"],
)
def test_threads_that_wait_sleep_unless_the_user_chose(first, chosen, found):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    program = f"import os\n{first}\nimport infomax\nprint(os.environ.get('OMP_WAIT_POLICY'))"
    environment = {name: value for name, value in os.environ.items() if name not in names} | chosen
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, f"{found}\n"), done.stderr


@pytest.mark.slow
def test_openmp_hears_that_threads_sleep():
    """GNU's own list of what it goes by, printed when torch loads it."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    done = subprocess.run(
        [sys.executable, "-c", "import infomax as im; im.InfoNCE"],
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0
    if "GOMP_SPINCOUNT" in done.stderr:  # another OpenMP says it in other words
        assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr and "GOMP_SPINCOUNT = '0'" in done.stderr
