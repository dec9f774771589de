"""The recipes of each kind of model, from the command to the folder; models saved and loaded; what is refused."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import saved_in, write_images
from test_recipes import OWN, log, tree, weights
from test_training import accelerator, pairs, trained
from test_training import weights as state

import infomax as im
from infomax import checkpoints, encoders

TINY = ("--encoder", "resnet10_small_gn", "--batch-size", "16")
EXTRA = {
    "moco": ("--queue", 32, "--momentum", 0.5),
    "deep_infomax": ("--layer", "layer3"),
    "cpc": ("--patch", 4, "--stride", 2, "--ahead", 1),
    "multicrop": ("--crops", 2, "--crop-size", 6),
    "clip": (),
    "given_views": (),
    "cpc_signals": ("--width", 8, "--strides", 8, 4, "--batch-size", 16),
    "signals": ("--width", 8, "--batch-size", 16),
}


def options(name, images, *more):
    if name == "given_views" and images.name == "one":  # three views
        for number in range(3):
            np.save(images.parent / f"view{number}.npy", np.random.default_rng(number).normal(size=(48, 4)))
        paths = ",".join(str(images.parent / f"view{number}.npy") for number in range(3))
        return (name, *TINY, "--dataset", f"views:{paths}", *more)
    if name in ("clip", "given_views"):  # whose estimate needs more pairs than there are images
        return (name, *TINY, "--dataset", "halves:digits", "--limit", 200, *more)
    if name in ("cpc_signals", "signals"):
        few = images.name == "one"  # too few to be evaluated: such a run ends soon
        return (name, *EXTRA[name], "--dataset", "waves:20" if few else "waves:80", *more)
    return (name, *TINY, *EXTRA[name], "--dataset", f"folder:{images}", "--limit", 48, *more)


# --------------------------------------------------------------------------------------------------- saved and loaded


def encoder(width=4):
    return im.encoder("resnet10_small_gn", in_chans=1, channels=[2, 2, 4, width], stem_width=2)


def projector(width=4):
    return encoders.Projector(width, hidden=4, out=3, norm="layer")


def views(count):
    return [*torch.randn(count, 8, 1, 8, 8, generator=torch.Generator().manual_seed(0))]


SAVED = {
    "InfoMax": (lambda o: im.InfoMax(encoder(), projector(), im.Cosine(0.3), o, targets=2), views(3)),
    "NT-Xent": (lambda o: im.InfoMax(encoder(), projector(), im.Cosine(0.3), o, ntxent=True), views(2)),
    "MoCo": (lambda o: im.MoCo(encoder(), projector(), im.Cosine(0.3), o, queue=16, momentum=0.5), views(2)),
    "DeepInfoMax": (
        lambda o: im.DeepInfoMax(
            encoder(), projector(), projector(), im.Cosine(0.3), o, layer="layer3", local_weight=0.5
        ),
        views(2),
    ),
    "DeepInfoMax, global": (
        lambda o: im.DeepInfoMax(encoder(), projector(), None, im.Cosine(0.3), o, local=False), views(2)
    ),
    "CPC": (
        lambda o: im.CPC(
            encoder(), encoders.CausalGRU(4, 5), im.Bilinear(5, 4), o, steps=2, patch=4, stride=1, microbatch=4
        ),
        views(1),
    ),
    "CPC of sequences": (
        lambda o: im.CPC(encoders.Times(2, 4, stride=2), encoders.CausalGRU(4, 5), im.Bilinear(5, 4), o, steps=3),
        [torch.randn(8, 12, 2, generator=torch.Generator().manual_seed(0))],
    ),
    "CPC of signals": (
        lambda o: im.CPC(encoders.StridedConv1d(2, 4, (2,)), encoders.CausalGRU(4, 5), im.Bilinear(5, 4), o, steps=3),
        [torch.randn(8, 2, 12, generator=torch.Generator().manual_seed(0))],
    ),
    "TwoTower": (
        lambda o: im.TwoTower(
            encoders.MLP(64, 8, 4), encoder(), projector(), projector(), im.Cosine(0.3, learn=True), o, ring=True
        ),
        views(2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("objective", ["MINE()", "InfoNCE()"])
def test_a_model_comes_back_bit_for_bit(tmp_path, name, objective):
    make, inputs = SAVED[name]
    model = make(im.objectives.objective(objective))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        (-model(inputs)).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step()
    checkpoints.save(model, tmp_path / "run")
    found = im.load(tmp_path / "run")
    assert type(found) is type(model) and checkpoints.describe(found) == checkpoints.describe(model)
    assert state(found).keys() == state(model).keys()
    assert all(torch.equal(value, state(found)[key]) for key, value in state(model).items())
    model.eval()
    assert torch.equal(model(inputs), found(inputs)) and model.terms.keys() == found.terms.keys()
    for own, theirs in zip(_sides(model, inputs), _sides(found, inputs), strict=True):
        assert torch.equal(own.x, theirs.x) and torch.equal(own.y, theirs.y)
    # And trained on, both take the same step.
    for each in (model.train(), found.train()):
        each.zero_grad()
        (-each(inputs)).backward()
        torch.optim.SGD([p for p in each.parameters() if p.requires_grad], lr=0.1).step()
        each.after_step()
    assert all(torch.equal(value, state(found)[key]) for key, value in state(model).items())


@pytest.mark.parametrize("name", ["CPC of sequences", "MoCo", "TwoTower"])
def test_a_saved_model_goes_on_to_the_same_bits(tmp_path, name):
    make, inputs = SAVED[name]

    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (-model(inputs)).backward()
            optimizer.step()
            model.after_step()

    model = make(im.InfoNCE())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    steps(model, optimizer, 2)
    with checkpoints.open_run(tmp_path / "run", "run", {}) as run:
        run.save(2, model, optimizer)
    found = im.load(tmp_path / "run").train()
    other = torch.optim.AdamW(found.parameters(), lr=0.01)
    checkpoints.read(tmp_path / "run").restore(found, other)
    steps(model, optimizer, 3)
    steps(found, other, 3)
    assert all(torch.equal(value, state(found)[key]) for key, value in state(model).items())


def _sides(model, inputs):
    sides = model.sides(inputs, None)
    return sides if isinstance(sides, list) else [sides]


# ------------------------------------------------------------------------------------------------------------- MoCo


class BrokenAt(im.DV):
    """DV whose surrogate is not a number at some steps, counted from 1."""

    def __init__(self, steps):
        super().__init__()
        self.broken, self.done = steps, 0

    def value_and_surrogate(self, s):
        self.done += 1
        value, surrogate = super().value_and_surrogate(s)
        factor = float("nan") if self.done in self.broken else 1
        return value * factor, surrogate * factor


def test_a_batch_that_is_skipped_moves_neither_keys_nor_queue():
    model = im.MoCo(encoder(), projector(), im.Cosine(0.3), BrokenAt([2, 4]), queue=32, momentum=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = im.train(model, pairs(), optimizer, lambda step: 1.0, accelerator(), steps=5, nonfinite="skip")
    before, came = state(model), 0
    for step in steps:
        after = state(model)
        moved = {key for key in after if not torch.equal(after[key], before[key])}
        if step.skipped:
            assert not moved
        else:
            came += 16
            assert {"keys", "filled"} <= moved and any(key.startswith("key_encoder") for key in moved)
        assert int(model.filled) == came and step.skipped == (step.number in (2, 4))
        before = after


# ------------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRA)
def test_a_short_run_ends_with_its_table_and_is_read_by_the_command_line(run, images, tmp_path, name):
    ended = run(*options(name, images, "--steps", 3))
    assert ended.status == 0, ended.err
    folder = tmp_path / "checkpoints" / name
    assert saved_in(ended.out) == f"checkpoints/{name}"
    lines = log(folder)
    assert [line["number"] for line in lines] == [1, 2, 3]
    if name == "deep_infomax":
        assert {"mi/local", "mi/global"} <= lines[0].keys()
        assert lines[0]["mi"] == pytest.approx(lines[0]["mi/local"] + lines[0]["mi/global"], rel=1e-5)
    for command in ("probe", "estimate"):
        done = run("infomax", command, folder, "--json")
        if command == "probe" and name == "clip":
            assert done.status in (0, 2), done.err
        else:
            assert done.status == 0, (command, done.err)
        if done.status == 0:
            json.loads(done.out)
        else:
            assert len(done.err.strip().splitlines()) == 1 and "Traceback" not in done.err
    assert run("infomax", "report", folder).status == 0
    kind = name.removesuffix("_signals").replace("_", "")  # views of one encoder are InfoMax, whatever their recipe
    assert type(im.load(folder)).__name__.lower() in (kind, "infomax", "twotower")


def cover(name: str, exhaustive: bool) -> list[str]:
    """The objectives that a recipe takes a step with: each is taken by two recipes, or by all."""
    place = [*EXTRA].index(name)
    return [
        objective
        for i, objective in enumerate(im.objectives.registry)
        if exhaustive or (place + 2 * i) % len(EXTRA) < 2
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", EXTRA)
def test_every_recipe_takes_one_step_with_every_objective(run, unlabelled, tmp_path, name, exhaustive):
    for objective in cover(name, exhaustive):
        folder = tmp_path / objective
        ended = run(*options(name, unlabelled, "--steps", 1, "--objective", objective, "--run-dir", folder))
        assert ended.status == 0 and "Traceback" not in ended.err, ended.err
        [line] = log(folder)
        found = [value for key, value in line.items() if key == "mi" or key.startswith("mi/")]
        assert line["number"] == 1 and found and all(map(math.isfinite, found))
        kind = type(im.objectives.objective(objective)).__name__
        assert repr(im.load(folder).objective).startswith(f"{kind}(")


def test_each_objective_meets_two_recipes():
    met = [objective for name in EXTRA for objective in cover(name, False)]
    assert all(met.count(objective) == 2 for objective in im.objectives.registry)


@pytest.mark.slow
def test_without_the_local_term_nothing_is_made_that_is_not_trained(run, images, tmp_path):
    ended = run(*options("deep_infomax", images, "--steps", 1, "--local", 0))
    assert ended.status == 0 and "does not use" not in ended.err, ended.err
    model = im.load(next((tmp_path / "checkpoints").iterdir()))
    assert model.patch_projector is None and not model.local


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRA)
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(run, unlabelled, tmp_path, monkeypatch, name):
    (tmp_path / "own.py").write_text(OWN)
    arguments = options(name, unlabelled, "--steps", 6, "--save-every", 2, "--objective", "own:Stops")
    monkeypatch.delenv("STOP_AT", raising=False)
    whole = run(*arguments, "--run-dir", "whole")
    assert whole.status == 0, whole.err
    monkeypatch.setenv("STOP_AT", "8" if name in ("deep_infomax", "cpc_signals") else "4")  # of two terms
    monkeypatch.setenv("STOP_BY", "nan")
    stopped = run(*arguments, "--run-dir", "parts")
    assert stopped.status != 0 and "Traceback" not in stopped.err
    monkeypatch.delenv("STOP_AT")
    resumed = run(*arguments, "--run-dir", "parts", "--resume")
    assert resumed.status == 0 and "Going on from" in resumed.err, resumed.err
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(other[key], value), key
    if name == "moco":
        assert int(one["filled"]) == 96 and any(key.startswith("key_encoder") for key in one)


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("moco", ("--queue", 8), "A queue of 8 keys cannot be filled by batches of 16"),
        ("moco", ("--queue", 40), "A queue of 40 keys"),
        ("moco", ("--momentum", 1), "momentum must be in"),
        ("moco", ("--objective", "InfoNCE(symmetric=True)"), "reads columns"),
        ("cpc", ("--patch", 3, "--stride", 5), "leave out 44% of the pixels"),
        ("deep_infomax", ("--layer", "layer9"), "no part 'layer9'"),
        (
            "deep_infomax",
            ("--encoder", "vit_tiny_patch16_224", "--layer", "head"),
            "VisionTransformer, cannot take images",
        ),
        ("deep_infomax", ("--local", 0, "--globally", 0), "needs a term"),
        ("deep_infomax", ("--local", -1), "-1"),
        ("deep_infomax", ("--globally", "nan"), "nan"),
        ("cpc", ("--patch", 9), "Patches of 9 pixels do not fit"),
        ("cpc", ("--ahead", 5), "predicts 5 steps ahead"),
        ("cpc", ("--ahead", 0), "steps is a whole number"),
        ("cpc", ("--stride", 0), "stride is a whole number"),
        ("cpc_signals", ("--ahead", 4), "CPC predicts 4 steps ahead and there are 4 times"),
        ("cpc_signals", ("--strides", 4, 0), "strides, one or more, are whole numbers of at least 1"),
        ("cpc_signals", ("--dataset", "digits"), "This StridedConv1d takes signals [n, 1, time], and these are"),
        ("multicrop", ("--crop-size", 9), "A crop of 9 x 9 pixels is larger than the images, which have 8 x 8"),
        ("multicrop", ("--crops", -1), "-1"),
        ("multicrop", ("--crop-size", 0), "size"),
        ("given_views", ("--dataset", "digits"), "'digits' names no pairs"),
        ("given_views", ("--dataset", "views:none.npy,none.npy"), "none.npy cannot be read"),
        ("given_views", ("--dataset", "views:one.npy"), "one.npy cannot be read"),
        ("given_views", ("--dataset", "views:one.npy,"), "one without a name"),
        ("given_views", ("--dataset", "views:a.npy,b.npy", "--skip-unreadable"), "--skip-unreadable goes with files"),
        ("clip", ("--dataset", "views:a.npy,b.npy"), "recipes/given_views.py trains on"),
        ("clip", ("--dataset", "digits"), "'digits' names no pairs"),
        ("clip", ("--dataset", "pairs:none.npy,none.npy"), "none.npy cannot be read"),
        ("clip", ("--dataset", "pairs:one.npy"), "names two files"),
    ],
)
def test_what_a_recipe_cannot_do_is_a_sentence_and_no_folder(run, images, tmp_path, name, more, told):
    ended = run(*options(name, images, "--steps", 2), *more)
    assert ended.status == 2, (ended.out, ended.err)
    assert told in ended.err and "Traceback" not in ended.err, ended.err
    assert len(ended.err.strip().splitlines()) == 1, ended.err
    assert tree(tmp_path) == []


def arrays(kind):
    x, y = np.random.default_rng(0).normal(size=(2, 60, 3))
    return {
        "lengths": (x, y[:50]), "nan": (np.where(x > 2, np.nan, x), y), "text": (x.astype(str), y),
        "objects": (x.astype(object), y), "scalar": (np.float64(3), y), "empty": (x[:0], y[:0]), "few": (x[:2], y[:2]),
        "complex": (x.astype(complex), y),
    }[kind]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("lengths", "x has 60 rows and y has 50"), ("nan", "x has NaN or infinity in"), ("text", "must hold numbers"),
        ("objects", "cannot be read as a NumPy array"), ("scalar", "must be rows of numbers"),
        ("empty", "must be rows of numbers"), ("few", "cannot be held out"), ("complex", "must hold numbers"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_pairs_are_a_sentence_and_no_folder(run, tmp_path, kind, told):
    for name, array in zip("xy", arrays(kind), strict=True):
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    ended = run("clip", "--dataset", "pairs:x.npy,y.npy", "--batch-size", 16, "--steps", 2)
    assert ended.status == 2 and told in ended.err and len(ended.err.strip().splitlines()) == 1, ended.err
    assert tree(tmp_path) == ["x.npy", "y.npy"]


def test_halves_of_images_of_one_pixel_are_refused(run, tmp_path):
    place = write_images(tmp_path / "flat", classes=1, each=80, side=1)
    before = tree(tmp_path)
    ended = run("clip", "--dataset", f"halves:folder:{place}", "--batch-size", 16, "--steps", 2)
    assert ended.status == 2 and len(ended.err.strip().splitlines()) == 1, ended.err
    assert re.search("no halves|1 pixel|1 x 1", ended.err), ended.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [*EXTRA, "simclr_smile", "which_objective"])
def test_the_command_writes_a_recipe_and_never_over_a_file(run, tmp_path, name):
    done = run("infomax", "recipe", name, "--into", "mine")
    assert done.status == 0, done.err
    start = "python" if name == "which_objective" else "accelerate launch"  # one process that starts the others
    assert f"Start it with: {start} mine/{name}.py" in " ".join(done.out.split())
    expected = {f"{name}.py"} | ({"simclr.py"} if name.startswith("simclr_") else set())
    assert {path.name for path in (tmp_path / "mine").iterdir()} == expected
    written = (tmp_path / "mine" / f"{name}.py").read_text()
    for other in sorted(expected):  # what the command wrote, and nobody edited, is no obstacle
        same = run("infomax", "recipe", other, "--into", "mine")
        assert same.status == 0 and f"mine/{other} is there already" in same.out, same.err
    (tmp_path / "mine" / f"{name}.py").write_text("mine")
    again = run("infomax", "recipe", name, "--into", "mine")
    assert again.status == 2 and "is there already" in again.err and len(again.err.strip().splitlines()) == 1
    assert (tmp_path / "mine" / f"{name}.py").read_text() == "mine"
    assert written == (Path(__file__).parents[1] / "recipes" / f"{name}.py").read_text()
    unknown = run("infomax", "recipe", f"{name}x")
    assert unknown.status == 2 and re.search(rf"no recipe '{name}x'.*{name}", unknown.err)


def test_a_schedule_and_an_optimiser_of_ones_own_train_a_moco():
    model = im.MoCo(encoder(), projector(), im.Cosine(0.3), im.InfoNCE(), queue=32)
    steps = list(trained(model, steps=3))
    assert [round(np.exp(step.ceiling)) for step in steps] == [16, 32, 48]
