"""Health: golden values in closed form, collapses planted in real runs, and runs whose bits it leaves alone."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RECIPES, TINY
from test_recipes import OWN, log, same, weights
from torch import nn

import infomax as im
from infomax import checkpoints, data, encoders, launch, training
from infomax.evaluation import Monitor
from infomax.evaluation.health import RIDGE, decay, effective_rank
from infomax.ui.pictures import health_curves

HEALTH = {"rankme", "alpha_req", "lidar", "alignment", "uniformity", "feature_std"}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(n, d):
    return torch.linalg.qr(normal(n, d)).Q


# ------------------------------------------------------------------------------------------------------- golden values


def test_rankme_of_known_spectra():
    assert im.health(orthogonal(20, 8)).rankme == pytest.approx(8)
    assert im.health(7 * torch.eye(5)).rankme == pytest.approx(5)
    assert im.health(torch.ones(10, 4)).rankme == pytest.approx(1)
    assert im.health(torch.eye(4)[:2].repeat(5, 1)).rankme == pytest.approx(2)
    # Singular values 3 and 1: the entropy of (3/4, 1/4).
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    x = orthogonal(9, 2) @ torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)) @ orthogonal(6, 2).T
    assert im.health(x).rankme == pytest.approx(math.exp(entropy))
    assert effective_rank(torch.zeros(3)) == 0


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 2.5])
def test_alpha_of_a_power_law(alpha):
    i = torch.arange(1, 13, dtype=torch.float64)
    assert decay(i**-alpha) == pytest.approx(alpha, abs=1e-12)
    centred = normal(40, 12)
    basis = torch.linalg.qr(centred - centred.mean(0)).Q  # whose columns have mean 0, as those that it spans have
    x = 5 + basis @ torch.diag(i ** (-alpha / 2)) @ orthogonal(12, 12).T
    assert im.health(x).alpha_req == pytest.approx(alpha, abs=1e-9)


def test_alpha_of_a_collapsed_spectrum_is_infinite():
    assert im.health(torch.full((10, 4), 0.1)).alpha_req == math.inf
    assert im.health(torch.arange(10.0)[:, None] * torch.ones(1, 4)).alpha_req == math.inf


@pytest.mark.parametrize("wide", [False, True])
def test_lidar_of_known_covariances(wide):
    """Sample means along two axes, with variances 9 and 1; views +-1 about them along both, and along a third."""
    means = torch.tensor([[3.0, 1, 0], [-3, 1, 0], [3, -1, 0], [-3, -1, 0]], dtype=torch.float64)
    offsets = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1]], dtype=torch.float64)
    x = (means[:, None] + offsets).flatten(0, 1)
    if wide:
        x = x @ orthogonal(50, 3).T
    within = torch.tensor([2 / 6, 8 / 6]) + RIDGE
    values = torch.tensor([9.0, 1.0]) / within
    found = im.health(x, ids=torch.arange(4).repeat_interleave(6))
    assert found.lidar == pytest.approx(effective_rank(values), rel=1e-5)


def test_ids_and_views_are_two_ways_to_say_the_same():
    x, y, z = normal(12, 5), normal(12, 5, seed=1), normal(12, 5, seed=2)
    one = im.health(x, views=[y, z])
    other = im.health(torch.cat([y, x, z]), ids=torch.arange(12).repeat(3) * 7 - 3)
    assert one.to_dict() == pytest.approx(other.to_dict())
    two = im.health(x, views=y)
    assert two.alignment is not None and two.n == 24
    assert im.health(x).lidar is None and im.health(x).alignment is None


@pytest.mark.parametrize("order", [">", "<"])
def test_arrays_of_any_order_of_bytes_are_read(order):
    x = np.random.default_rng(0).normal(size=(40, 6))
    known, ids = im.health(x, np.arange(40) // 2, [x + 1]), (np.arange(40) // 2).astype(f"{order}i8")
    assert im.health(x.astype(f"{order}f8"), ids, [(x + 1).astype(f"{order}f8")]) == known
    assert im.health(x.astype(f"{order}f8")[::-1], ids[::-1]).rankme == pytest.approx(im.health(x).rankme)


def test_alignment_in_closed_form():
    x = torch.tensor([[1.0, 0], [0, 2], [3, 0]])
    y = torch.tensor([[0.0, 5], [0, 1], [-1, 0]])
    assert im.health(x, views=y).alignment == pytest.approx((2 + 0 + 4) / 3)
    # Three views of one sample and one of another: of the pairs 0, 2 and 2; the single row has none.
    rows = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, -1]])
    assert im.health(rows, ids=[0, 0, 0, 1]).alignment == pytest.approx(4 / 3)


def test_uniformity_in_closed_form():
    assert im.health(torch.eye(6)).uniformity == pytest.approx(-4)  # all at squared distance 2
    assert im.health(torch.tensor([[1.0, 0], [-3, 0]])).uniformity == pytest.approx(-8)
    assert im.health(torch.ones(5, 3)).uniformity == pytest.approx(0, abs=1e-12)
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])  # of its pairs two thirds are neighbours
    expected = math.log(2 / 3 * math.exp(-4) + 1 / 3 * math.exp(-8))
    assert im.health(square).uniformity == pytest.approx(expected)
    # Views of one sample are no pair of two samples.
    assert im.health(torch.tensor([[1.0, 0], [-1, 0]]), views=torch.tensor([[1.0, 0], [-1, 0]])).uniformity == -8


def test_deviation_in_closed_form():
    assert im.health(torch.tensor([[2.0, 0], [-5, 0]])).feature_std == pytest.approx(1)
    assert im.health(torch.full((9, 3), 2.0)).feature_std == pytest.approx(0, abs=1e-7)
    assert im.health(torch.eye(2)).feature_std == pytest.approx(math.sqrt(0.5))


def test_health_is_the_same_in_any_rotation_and_of_float32():
    x, turn = normal(30, 6), orthogonal(6, 6)
    y = x + 0.1 * normal(30, 6, seed=1)
    known = im.health(x, views=y).to_dict()
    assert im.health(x @ turn, views=y @ turn).to_dict() == pytest.approx(known)
    assert im.health(x.float(), views=y.float()).to_dict() == pytest.approx(known, rel=1e-4)
    assert im.health(x.numpy()) == im.health(x)
    assert "RankMe" in str(im.health(x, views=x + 0.1))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((torch.ones(1, 4),), "two or more"),
        ((torch.ones(3, 4), np.array(["a", "b", "c"])), "ids name the sample of each of 3 rows, a whole number each"),
        ((torch.ones(3, 4), [[0], [1, 2], [3]]), "ids name the sample of each of 3 rows, a whole number each"),
        ((torch.ones(4),), "[n, d] is needed"),
        ((torch.full((3, 2), math.nan),), "NaN or infinity in 3 of 3 rows"),
        ((torch.ones(3, 2), [0, 1]), "the sample of each of 3 rows"),
        ((torch.ones(3, 2), [0.0, 1.0, 2.0]), "a whole number each"),
        ((torch.ones(3, 2), None, torch.ones(3, 3)), "one is [3, 3]"),
        (("abc",), "no array of numbers"),
    ],
)
def test_refusals(given, sentence):
    with pytest.raises(im.UserError) as error:
        im.health(*given)
    assert sentence in str(error.value)


# -------------------------------------------------------------------------------------------------------- the monitor


def network(width=8):
    return im.encoder("resnet10_small_gn", in_chans=1, channels=[2, 2, 4, width], stem_width=2)


def projector(width=8):
    return encoders.Projector(width, hidden=8, out=6, norm="layer")


MODELS = {
    "InfoMax": lambda: im.InfoMax(network(), projector(), im.Cosine(0.3), im.MINE()),
    "NT-Xent": lambda: im.InfoMax(network(), projector(), im.Cosine(0.3), im.InfoNCE(), ntxent=True),
    "MoCo": lambda: im.MoCo(network(), projector(), im.Cosine(0.3), im.InfoNCE(), queue=16, momentum=0.5),
    "DeepInfoMax": lambda: im.DeepInfoMax(
        network(), projector(), projector(4), im.Cosine(0.3), im.InfoNCE(), layer="layer3"
    ),
    "CPC": lambda: im.CPC(  # group norms of patches of 4 pixels would leave nothing but rounding
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        encoders.CausalGRU(8, 8),
        im.Bilinear(8, 8),
        im.InfoNCE(),
        steps=2,
        patch=4,
        stride=1,
    ),
    "TwoTower": lambda: im.TwoTower(network(), network(), projector(), projector(), im.Cosine(0.3), im.InfoNCE()),
}


def material(name):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (52, 1, 8, 8), generator=generator, dtype=torch.uint8)
    if name == "TwoTower":
        pairs = data.pairs(images, images.flip(2), test=20)
        return pairs, data.PairedLoader(pairs.train, 16)
    labels = torch.arange(52) % 3
    dataset = data.from_tensors(images[:32], labels[:32], images[32:], labels[32:])
    return dataset, data.PairLoader(dataset.train, data.views_for(dataset), 16)


def trained(name, monitored):
    torch.manual_seed(0)
    (dataset, loader), model = material(name), MODELS[name]()
    accelerator, numbers = launch.make_accelerator(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = Monitor(model, loader, dataset, 6, 0, accelerator, 1)
    if monitored:
        monitor.begin(None)
    for step in training.train(model, loader, optimizer, lambda step: 1.0, accelerator, steps=6):
        torch.rand(1)  # what a user draws
        if monitored and monitor.due(step.number):
            modes = [module.training for module in model.modules()]
            numbers.append(monitor.measure(step.number))
            assert numbers[-1] == monitor.measure(step.number)
            assert modes == [module.training for module in model.modules()]
            assert monitor.collapse(numbers[-1], step.number) is None
    return model.state_dict(), optimizer.state_dict(), torch.get_rng_state(), numbers


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_measured_and_stays_as_it_is_to_the_bit(name):
    state, optimizer, generator, _ = trained(name, False)
    watched, moments, drawn, numbers = trained(name, True)
    assert same(state, watched) and torch.equal(generator, drawn)
    for at, entry in optimizer["state"].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(moments["state"][at][k])) for k, v in entry.items())
    assert len(numbers) == 3
    towers = ("x/", "y/") if name == "TwoTower" else ("",)
    expected = HEALTH - {"lidar", "alignment"} if name == "TwoTower" else HEALTH
    assert {f"health/{tower}{key}" for tower in towers for key in expected} <= numbers[0].keys()
    assert ("probe/knn" in numbers[0]) == (name != "TwoTower")
    assert numbers[0]["health/ceiling"] > 0 and math.isfinite(numbers[0]["health/mi"])
    json.dumps(numbers)


def test_mi_of_the_sample_is_the_models_own():
    dataset, loader = material("InfoMax")
    model = MODELS["NT-Xent"]()
    monitor = Monitor(model, loader, dataset, 4, 0, launch.make_accelerator(), 1, 0)
    monitor.begin(None)
    numbers = monitor.measure(2)
    with torch.no_grad():
        model.eval()
        value = float(model(monitor._inputs(), ids=torch.arange(20)))
    assert numbers["health/mi"] == pytest.approx(value, rel=1e-5)
    assert numbers["health/ceiling"] == pytest.approx(math.log(2 * 20 - 1))
    assert "probe/knn" not in numbers


def test_collapse_of_each_kind_is_told_and_none_of_a_healthy_run():
    dataset, loader = material("InfoMax")
    monitor = Monitor(MODELS["InfoMax"](), loader, dataset, 100, 0, launch.make_accelerator(), 1)
    start = {"health/rankme": 7.0, "health/feature_std": 0.5}
    monitor.begin({"start": start, "nothing": 0})
    well = {"health/rankme": 9.0, "health/feature_std": 0.4, "health/mi": 1.0, "health/ceiling": 3.0}
    assert monitor.collapse(well, 2) is None
    assert "RankMe of the features is 1.50" in str(monitor.collapse(well | {"health/rankme": 1.5}, 4))
    assert "0.8 % of the start's" in str(monitor.collapse(well | {"health/feature_std": 0.004}, 6))
    assert monitor.collapse(well | {"health/mi": 0.01}, 8) is None  # in the warm-up
    assert monitor.collapse(well | {"health/mi": 0.01}, 20) is None  # once
    assert monitor.state() == {"start": start, "nothing": 20}
    assert monitor.collapse(well | {"health/mi": -0.01}, 22) is None  # an epoch later, and soon
    assert "and 0 since step 20" in str(monitor.collapse(well | {"health/mi": 0.01}, 30))
    assert monitor.collapse(well | {"health/mi": -50.0}, 32) is None  # of a bound that is loose, and no collapse
    monitor.begin({"start": start | {"health/rankme": 1.9}, "nothing": 0})  # an untrained encoder's, which may rise
    assert monitor.collapse(well | {"health/rankme": 1.6}, 2) is None
    assert monitor.collapse(well | {"health/rankme": 1.4}, 4) is not None
    monitor.begin({"start": start | {"health/rankme": 1.0}, "nothing": 0})
    assert monitor.collapse(well | {"health/rankme": 1.0}, 2) is not None


def test_the_default_is_cheap():
    dataset, loader = material("InfoMax")
    monitor = Monitor(MODELS["InfoMax"](), loader, dataset, 100, 0, launch.make_accelerator())
    # 40 passes of held-out images in 2.5 % of 6 x 32 an epoch.
    assert [step for step in range(1, 50) if monitor.due(step)] == [18, 36]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every": -1}, "--health-every is a number of epochs"),
        ({"probe_every": 2}, "2 needs labels, and tensors has none"),
    ],
)
def test_settings_that_cannot_be(options, sentence):
    images = torch.zeros(24, 1, 8, 8, dtype=torch.uint8)
    dataset = data.from_tensors(images[:16], None, images[16:], None)
    loader = data.PairLoader(dataset.train, data.views_for(dataset), 16)
    with pytest.raises(im.UserError, match=sentence):
        Monitor(MODELS["InfoMax"](), loader, dataset, 4, 0, launch.make_accelerator(), **options)


# ------------------------------------------------------------------------------------------------------------ recipes

POSITIVES = """
import infomax as im

class Positives(im.Objective):
    def estimate(self, s):
        return s.positive.mean()
"""


def command(name, folder, *more):
    return (name, *TINY, "--dataset", f"folder:{folder}", "--limit", 48, *more)


@pytest.mark.slow
def test_a_run_shows_logs_and_reports_its_health_and_its_bits_stay(run, images, tmp_path):
    options = command("simclr_infonce", images, "--steps", 6)
    plain = run(*options, "--health-every", 0, "--run-dir", "plain")
    seen = run(*options, "--health-every", 1, "--run-dir", "seen")
    assert plain.status == seen.status == 0, seen.err
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "seen"))
    assert "RankMe" in seen.err and "deviation" in seen.err and "kNN" in seen.err and "RankMe" not in plain.err
    measured = [line["number"] for line in log(tmp_path / "seen") if "health/rankme" in line]
    assert measured == [3, 6] and [line["number"] for line in log(tmp_path / "seen")] == [1, 2, 3, 4, 5, 6]
    assert not any("health/rankme" in line for line in log(tmp_path / "plain"))
    assert run("infomax", "report", tmp_path / "seen", "--output", "page.html").status == 0
    page = (tmp_path / "page.html").read_text()
    assert "<h2>Health</h2>" in page and "RankMe" in page and "alpha-ReQ" in page


@pytest.mark.slow
def test_health_goes_on_with_a_resumed_run(run, unlabelled, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    options = command("simclr_smile", unlabelled, "--health-every", 1, "--steps", 9, "--objective", "own:Stops")
    whole = run(*options, "--run-dir", "whole")
    assert whole.status == 0, whole.err
    monkeypatch.setenv("STOP_AT", "8")
    monkeypatch.setenv("STOP_BY", "nan")
    assert run(*options, "--run-dir", "parts").status == 1
    monkeypatch.delenv("STOP_AT")
    start = checkpoints.read(tmp_path / "parts").state["ranks"][0]["state"]["health"]["start"]
    assert {"health/rankme", "health/feature_std", "health/projection/feature_std"} <= set(start)
    assert min(start.values()) > 0
    resumed = run(*options, "--run-dir", "parts", "--resume")
    assert resumed.status == 0 and "Going on from" in resumed.err, resumed.err
    again = checkpoints.read(tmp_path / "parts")
    assert again.step == 9 and again.state["ranks"][0]["state"]["health"]["start"] == start
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))

    def numbers(folder):
        return [{k: v for k, v in line.items() if k.startswith("health/")} for line in log(folder)]

    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts") and numbers(tmp_path / "parts")[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planted", "sentence"),
    [
        (("--objective", "own:Positives", "--lr", 0.03), "projections"),
        (("--temperature", 10000), "and 0 since step"),
        (("--lr", 1000), "those of all samples|all samples look alike|0 since step|not finite"),
    ],
)
def test_a_planted_collapse_stops_a_run_which_keeps_its_checkpoint(run, images, tmp_path, planted, sentence):
    (tmp_path / "own.py").write_text(POSITIVES)
    options = command("simclr_infonce", images, "--steps", 60, "--health-every", 1, "--on-collapse", "stop", *planted)
    ended = run(*options, "--run-dir", "run")
    assert ended.status == 1, ended.err
    last = ended.err.strip().splitlines()[-1]
    assert last.startswith("Collapsed at step ") and "Try a lower learning rate" in last and re.search(sentence, last)
    assert "Traceback" not in ended.err
    assert checkpoints.read(tmp_path / "run").step == log(tmp_path / "run")[-1]["number"] < 60


@pytest.mark.slow
def test_a_collapse_may_be_passed_over(run, images, tmp_path):
    options = command("simclr_infonce", images, "--steps", 21, "--health-every", 1, "--temperature", 10000)
    stopped = run(*options, "--run-dir", "run", "--on-collapse", "stop")
    assert stopped.status == 1
    warned = run(*options, "--run-dir", "run", "--resume")
    assert warned.status == 0, warned.err
    assert "Collapsed at step 21" in warned.err
    assert [line["number"] for line in log(tmp_path / "run")] == list(range(1, 22))


@pytest.mark.slow
def test_all_processes_stop_at_the_same_collapse(images, tmp_path):
    torchrun = Path(sys.executable).parent / "torchrun"
    options = map(
        str,
        command(
            "simclr_infonce",
            images,
            "--steps",
            30,
            "--health-every",
            1,
            "--temperature",
            10000,
            "--on-collapse",
            "stop",
        )[1:],
    )
    recipe = [torchrun, "--standalone", "--nproc_per_node", "2", RECIPES / "simclr_infonce.py"]
    done = subprocess.run(
        [*map(str, recipe), *options, "--run-dir", "run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0 and "Collapsed at step" in done.stderr, done.stderr
    assert "is gone" not in done.stderr
    found = checkpoints.read(tmp_path / "run")
    assert found.processes == 2 and found.step == log(tmp_path / "run")[-1]["number"]
    states = [rank["state"]["health"] for rank in found.state["ranks"]]
    assert states[0] == states[1] and states[0]["nothing"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--health-every", -1), "--health-every is a number of epochs"),
        (("--probe-every", 1), "1 needs labels, and"),
    ],
)
def test_a_mistake_is_a_sentence(run, tmp_path, options, sentence):
    import numpy as np
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for number in range(40):
        Image.fromarray(np.full((8, 8), 5 * number, np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    ended = run("simclr_infonce", *TINY, "--dataset", f"folder:{tmp_path / 'pictures'}", "--steps", 2, *options)
    assert ended.status == 2 and sentence in ended.err and "Traceback" not in ended.err
    assert not (tmp_path / "checkpoints").exists()


def test_curves_of_a_log(tmp_path):
    lines = [{"number": n, "mi": 1.0, "ceiling": 2.0} for n in range(1, 5)]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert health_curves(path) == "" and health_curves(tmp_path / "none") == ""
    lines[1] |= {"health/x/rankme": 3.0, "health/y/rankme": 4.0, "health/alpha_req": None, "probe/knn": 0.5}
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"number": 5, "health/x/rank')
    picture = health_curves(path)
    assert "RankMe x" in picture and "RankMe y" in picture and "alpha-ReQ" not in picture
    assert "kNN accuracy" in picture and "held-out x" not in picture
