"""A model in words: whichever class it is of, its parts and options come back, and nothing of the saver's own runs."""

import json
import sys

import pytest
import torch
from torch import nn

import infomax as im
from infomax import checkpoints, models
from infomax.checkpoints import DamagedError, files, snapshot
from infomax.errors import UserError


class Queued(im.InfoMax):
    """An InfoMax with a queue of features, as many options as it likes, and one more part."""

    def __init__(self, encoder, projector, critic, objective, queue=4, momentum=0.99, width=(2, 3), extra=None):
        super().__init__(encoder, projector, critic, objective)
        self.queue, self.momentum, self.width, self.extra = queue, momentum, width, extra
        self.register_buffer("kept", torch.zeros(queue, 2))


class Towers(im.InfoMax):
    """Two encoders, which share nothing."""

    def __init__(self, encoder_x, encoder_y, projector_x, projector_y, critic, objective):
        nn.Module.__init__(self)
        self.encoder_x, self.encoder_y, self.projector_x, self.projector_y = (
            encoder_x, encoder_y, projector_x, projector_y
        )  # fmt: skip
        self.critic, self.objective = critic, objective


class Handed(im.InfoMax):
    """Hands most of its arguments on."""

    def __init__(self, *, heads, **others):
        super().__init__(**others)
        self.heads = heads


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for kind in (Queued, Towers, Handed):
        monkeypatch.setitem(models.registry, kind.__name__.lower(), kind)


def encoder(width=4):
    return im.encoder("resnet10_small_gn", in_chans=1, channels=[2, 2, 4, width], stem_width=2)


def projector(width=4):
    return im.encoders.Projector(width, hidden=4, out=2, norm="layer")


def parts():
    return {"encoder": encoder(), "projector": projector(), "critic": im.Cosine(0.3), "objective": im.SMILE(tau=2.0)}


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


MADE = [
    lambda: Queued(**parts(), queue=7, momentum=float("inf"), width=(5, 6), extra={"a": [1, None, True]}),
    lambda: Towers(encoder(), encoder(6), projector(), projector(6), im.Concat(2, 2), im.NWJ()),
    lambda: Handed(**parts(), heads=nn.ModuleList([nn.Identity(), projector(2), encoder()]), ntxent=True),
    lambda: im.InfoMax(**parts(), microbatch=3),
]


@pytest.mark.parametrize("make", MADE)
def test_any_registered_model_comes_back(tmp_path, make):
    model = make()
    words = checkpoints.describe(model)
    assert words is not None and words["model"] == type(model).__name__
    checkpoints.save(model, tmp_path / "run")
    found = checkpoints.load(tmp_path / "run")
    assert type(found) is type(model) and same(found, model) and not found.training
    assert checkpoints.describe(found) == words
    for name in words["options"]:
        assert getattr(found, name) == getattr(model, name) and type(getattr(found, name)) is type(getattr(model, name))
    assert same(checkpoints.load_encoder(tmp_path / "run"), getattr(model, "encoder_x", None) or model.encoder)
    projection = checkpoints.read_parts(tmp_path / "run")[2]
    assert projection is not None and same(projection, getattr(model, "projector_x", None) or model.projector)
    for name in words["parts"]:
        assert same(checkpoints.read_part(tmp_path / "run", name)[1], getattr(model, name))
    timm = checkpoints.read(tmp_path / "run").folder / "encoder/config.json"
    assert json.loads(timm.read_text())["architecture"] == "resnet10_small_gn"


def test_the_words_are_flat_and_readable():
    assert checkpoints.describe(Queued(**parts())) == {
        "model": "Queued",
        "parts": {
            "encoder": {
                "name": "resnet10_small_gn", "in_chans": 1, "arguments": {"channels": [2, 2, 4, 4], "stem_width": 2},
            },
            "projector": "Projector(4, hidden=4, out=2, norm='layer')",
            "critic": repr(im.Cosine(0.3)),
            "objective": "SMILE(tau=2.0)",
        },
        "options": {"queue": 4, "momentum": 0.99, "width": {"$tuple": [2, 3]}, "extra": None},
    }  # fmt: skip
    assert checkpoints.describe(nn.Linear(2, 2)) is None
    assert checkpoints.describe(im.Cosine()) is None


def test_an_option_that_came_later_has_its_default_and_one_that_is_unknown_is_named():
    words = checkpoints.describe(Queued(**parts(), queue=9)) or {}
    del words["options"]["momentum"]
    assert (checkpoints.build(words).momentum, checkpoints.build(words).queue) == (0.99, 9)
    with pytest.raises(UserError, match=r"'queu', which Queued does not take.*'queue'"):
        checkpoints.build({**words, "options": {"queu": 3}})
    with pytest.raises(UserError, match="names no critic"):
        checkpoints.build({**words, "parts": {k: v for k, v in words["parts"].items() if k != "critic"}})
    with pytest.raises(UserError, match=r"Queued cannot be made with the options.*restore\(model\)"):
        checkpoints.build({**words, "options": {"queue": "x"}})
    with pytest.raises(UserError, match=r"Unknown model 'Queue'.*Queued"):
        checkpoints.build({**words, "model": "Queue"})
    with pytest.raises(UserError, match="Unknown critic 'SMILE'"):
        checkpoints.build({**words, "parts": {**words["parts"], "critic": "SMILE"}})


def test_what_nothing_can_spell_is_said_when_it_is_asked_for(tmp_path):
    class Unkept(im.InfoMax):
        def __init__(self, encoder, projector, critic, objective, width=3, act=None, table=None):
            super().__init__(encoder, projector, critic, objective)
            self.act, self.table = act, table

    words = checkpoints.describe(Unkept(**parts(), act=torch.relu, table=torch.zeros(2)))
    assert words is not None and {k for k, v in words["parts"].items() if v is None} == {"width", "act", "table"}
    models.registry["unkept"] = Unkept
    try:
        with pytest.raises(UserError, match=r"Nothing was saved that says how to build the model's width\..*restore"):
            checkpoints.build({**words, "model": "Unkept"})
    finally:
        del models.registry["unkept"]
    own = Towers(encoder(), nn.Flatten(), projector(), projector(), im.Cosine(), im.NWJ())
    checkpoints.save(own, tmp_path / "run")
    with pytest.raises(UserError, match=r"not made by infomax\.encoder\(\).*restore\(model\)"):
        checkpoints.load(tmp_path / "run")
    assert same(checkpoints.load_encoder(tmp_path / "run"), own.encoder_x)
    with pytest.raises(UserError, match=r"not made by infomax\.encoder\(\)"):
        checkpoints.read_part(tmp_path / "run", "encoder_y")
    with pytest.raises(UserError, match=r"no part 'projector'.*projector_x"):
        checkpoints.read_part(tmp_path / "run", "projector")


def test_a_model_of_the_savers_own_is_imported_only_when_allowed(tmp_path, monkeypatch):
    (tmp_path / "their_model.py").write_text(
        f"import pathlib\nimport infomax as im\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class Their(im.InfoMax):\n    def __init__(self, encoder, projector, critic, objective, depth=1):\n"
        "        super().__init__(encoder, projector, critic, objective)\n        self.depth = depth\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import their_model  # pyright: ignore[reportMissingImports]

    model = their_model.Their(**parts(), depth=5)
    checkpoints.save(model, tmp_path / "run")
    assert (checkpoints.describe(model) or {})["model"] == "their_model:Their"
    del sys.modules["their_model"]
    (tmp_path / "ran").unlink()
    with pytest.raises(UserError, match=r"their_model:Their.*allow_imports"):
        checkpoints.load(tmp_path / "run")
    assert same(checkpoints.load_encoder(tmp_path / "run"), model.encoder)
    assert not (tmp_path / "ran").exists()
    found = checkpoints.load(tmp_path / "run", allow_imports=True)
    assert (type(found).__name__, found.depth) == ("Their", 5) and same(found, model)


def test_a_model_in_memory_is_evaluated_by_its_first_encoder():
    from infomax.evaluation import subject

    images = im.data.from_tensors(
        torch.zeros(4, 1, 8, 8, dtype=torch.uint8), None, torch.zeros(2, 1, 8, 8).byte(), None
    )
    towers, whole = Towers(encoder(), encoder(6), projector(), projector(6), im.Cosine(), im.NWJ()), Queued(**parts())
    about = subject(towers, images)
    assert about.encoder is towers.encoder_x and about.projector is towers.projector_x
    assert subject(whole, images).encoder is whole.encoder and subject(whole.encoder, images).encoder is whole.encoder


@pytest.mark.slow
def test_wrapped_models_are_described_without_their_wrapping():
    model = im.InfoMax(**parts())
    assert checkpoints.describe(torch.compile(model)) == checkpoints.describe(model)  # pyright: ignore


@models.part
class Turned(nn.Module):
    """A part class of a model's own file."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.eye(width))
        self.width = width

    def __repr__(self) -> str:
        return f"Turned({self.width})"


def test_a_part_class_is_registered_in_its_own_file(tmp_path):
    model = im.InfoMax(encoder(), Turned(4), im.Cosine(), im.NWJ())
    assert (checkpoints.describe(model) or {})["parts"]["projector"] == "Turned(4)"
    checkpoints.save(model, tmp_path / "run")
    assert same(checkpoints.load(tmp_path / "run").projector, model.projector)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("options", {"queue": 10**12}), ("options", {"queue": -1}), ("options", {"queue": [4, [4]]}),
        ("options", {"queue": {"$tensor": "kept"}}), ("options", {"momentum": {"$float": "x"}}),
        ("options", {"critic": "Cosine()"}), ("options", {"self": 1}), ("options", {"width": {"$dict": [[[], 1]]}}),
        ("parts", {"projector": "Linear(200000, 200000)"}), ("parts", {"projector": [["Linear(4, 2)"]]}),
        ("parts", {"projector": ["Identity"] * 100000}), ("parts", {"encoder": ["Identity"]}),
        ("parts", {"encoder": "Identity"}), ("parts", {"projector": {"name": "resnet152", "in_chans": 1}}),
        ("parts", {"critic": "os:system('x')"}), ("parts", {"queue": "Identity"}), ("parts", {"objective": {}}),
    ],
)  # fmt: skip
def test_hostile_words_are_refused(tmp_path, section, change):
    folder = checkpoints.save(Queued(**parts()), tmp_path / "run")
    state = json.loads((folder / "state.json").read_text())
    state["model"][section] |= change
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "MANIFEST.json").unlink()
    snapshot.seal_folder(folder)
    with pytest.raises(UserError):
        checkpoints.load(folder)


def test_a_manifest_of_format_3_with_the_words_of_format_2_is_refused(tmp_path):
    folder = checkpoints.save(im.InfoMax(**parts()), tmp_path / "run")
    state = json.loads((folder / "state.json").read_text())
    state["model"] = state["model"]["parts"] | {"ntxent": False}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "MANIFEST.json").unlink()
    snapshot.seal_folder(folder)
    with pytest.raises(UserError, match="not one that infomax writes"):
        checkpoints.load(folder)
    content = json.loads((folder / "MANIFEST.json").read_text()) | {"format": 2}
    (folder / "MANIFEST.json").write_text(json.dumps(content | {"sha256": files.seal_of(content)}))
    assert isinstance(checkpoints.load(folder), im.InfoMax)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(DamagedError):
        checkpoints.load(folder)
