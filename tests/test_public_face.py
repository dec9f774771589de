"""The public face: every public name that ever was is there, with the parameters that it had.

public_face.json holds names and signatures. New names and new parameters with a default may come; after adding some,
.venv/bin/python tests/test_public_face.py writes the file anew, and its difference is what a reviewer reads.
"""

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).with_name("public_face.json")
# A module's own list of names, or else what it defines itself and does not begin with an underscore.
MODULES = (
    "infomax", "infomax.checkpoints", "infomax.critics", "infomax.data", "infomax.encoders", "infomax.errors",
    "infomax.estimation", "infomax.evaluation", "infomax.launch", "infomax.objectives", "infomax.probing",
    "infomax.report", "infomax.scores", "infomax.training",
)  # fmt: skip


def module_of(name: str) -> Any:
    """As a user reaches it: import infomax as im; im.probing."""
    found = importlib.import_module("infomax")
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return found


def parameters(found: Any) -> list[list[str]] | None:
    """[name, kind, default] of each parameter of a function or constructor; None for anything else."""
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return None
    try:
        signature = inspect.signature(found)
    except ValueError:
        return None
    return [
        [p.name, p.kind.name, "required" if p.default is p.empty else re.sub(" at 0x[0-9a-f]+", "", repr(p.default))]
        for p in signature.parameters.values()
    ]


def methods(kind: type) -> dict[str, Any]:
    found = {
        n: v for base in reversed(kind.__mro__) if base.__module__.startswith("infomax") for n, v in vars(base).items()
    }
    return {n: getattr(kind, n) for n in sorted(found) if not n.startswith("_")}


def face() -> dict[str, list[list[str]] | None]:
    shown: dict[str, list[list[str]] | None] = {}
    for name in MODULES:
        module = module_of(name)
        home = module.__name__  # a module that has moved keeps its old name as an attribute of the package
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == home and not n.startswith("_")]
        for public in sorted(getattr(module, "__all__", None) or own):
            found = getattr(module, public)
            shown[f"{name}.{public}"] = parameters(found)
            if inspect.isclass(found):
                for method, value in methods(found).items():
                    shown[f"{name}.{public}.{method}"] = parameters(value)
    return shown


KNOWN = json.loads(FILE.read_text()) if FILE.exists() else {}


def reached(name: str) -> Any:
    """What a public name names: a module's attribute, or one of a class of it."""
    for module in sorted(MODULES, key=len, reverse=True):
        if name.startswith(module + "."):
            found = module_of(module)
            for part in name.removeprefix(module + ".").split("."):
                found = getattr(found, part)
            return found
    raise AssertionError(name)


def head(name: str) -> str:
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("names", sorted({head(name) for name in KNOWN}))
def test_public_names_stay_with_their_parameters(names):
    for name in KNOWN:
        if head(name) == names:
            must_be_as_before(name)


def must_be_as_before(name):
    now, before = parameters(reached(name)), KNOWN[name]
    if before is None:
        return
    assert now is not None, name
    there = {p[0]: p for p in now}
    for parameter in before:
        assert there.get(parameter[0]) == parameter, name
    positional = [p[0] for p in before if p[1].startswith("POSITIONAL")]
    assert [p[0] for p in now if p[1].startswith("POSITIONAL")][: len(positional)] == positional, name
    for parameter, kind, default in now:
        known = {p[0] for p in before}
        assert parameter in known or default != "required" or kind.startswith("VAR"), f"{name}: {parameter} is new"


def test_every_public_name_is_known():
    assert face().keys() <= KNOWN.keys(), "python tests/test_public_face.py writes public_face.json anew"


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in sorted((KNOWN | face()).items())]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
