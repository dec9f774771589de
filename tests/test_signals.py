"""Signals: drawn with known factors, read and checked, views fixed by (seed, epoch, id, view), a run to its end."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

import infomax as im
from infomax import checkpoints
from infomax.data import (
    PairLoader,
    SignalPolicy,
    SignalViews,
    dataset,
    describe_views,
    from_signals,
    views_for,
    views_from,
)
from infomax.data.waves import FACTORS, TIME, WAVES, drawn, factors, waves
from infomax.encoders import MLP, ResNet1d
from infomax.errors import UserError
from infomax.spelling import parse

EVERYTHING = SignalPolicy(crop=(0.4, 0.9), shift=0.2, scale=0.5, jitter=0.3, mask=0.3)


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape)


def noise(n: int, channels: int = 2, time: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, channels, time, generator=torch.Generator().manual_seed(seed))


def test_a_wave_is_a_function_of_seed_and_id():
    ids = torch.tensor([5, 0, 1 << 40, 77])
    some = waves(ids, 1)
    assert some.shape == (4, 2, TIME) and some.dtype == torch.float32
    for i, one in enumerate(ids):
        assert torch.equal(waves(one[None], 1)[0], some[i])
    assert not torch.equal(waves(ids, 2), some)
    shown = hashlib.sha256(waves(torch.arange(64), 0).numpy().tobytes()).hexdigest()
    assert shown.startswith("8b69a039d8660d34")  # the same on every machine


def test_factors_of_waves_are_even_and_can_be_read_back_without_noise():
    values = factors(torch.arange(20_000), 0)
    for i, (name, count) in enumerate(FACTORS.items()):
        counts = values[:, i].bincount(minlength=count).double()
        assert len(counts) == count and (counts - 20_000 / count).abs().max() < 5 * (20_000 / count) ** 0.5, name
    grid = torch.cartesian_prod(*(torch.arange(count) for count in FACTORS.values()))
    clean = drawn(grid).flatten(1)
    apart = torch.cdist(clean, clean) + 1e9 * torch.eye(len(clean))
    assert float(apart.min()) > 0.5  # of 256 numbers: no two settings look alike
    noisy = waves(torch.arange(500), 0)
    nearest = torch.cdist(noisy.flatten(1), clean).argmin(1)
    right = (grid[nearest] == factors(torch.arange(500), 0)).double().mean(0)
    assert (right > 0.95).all(), right


def test_waves_is_a_data_set():
    data = dataset("waves:40,3")
    assert repr(data.train) == "SignalSplit(40 signals 2x128, in memory)" and len(data.test) == 8
    assert data.classes == list(WAVES) and data.kind == "signals" and data.shape == (2, TIME)
    assert torch.equal(data.train.batch([1, 3]), waves(torch.tensor([1, 3]), 3))
    everything = data.train.batch(range(40)).double()
    assert torch.allclose(torch.tensor(data.mean).double(), everything.mean((0, 2)))
    assert torch.allclose(torch.tensor(data.std).double(), everything.std((0, 2), correction=0))
    assert data.fingerprint.startswith("40 + 8 signals, sha256 ")
    assert data.fingerprint == dataset("waves:40,3").fingerprint != dataset("waves:40,4").fingerprint
    assert len(dataset("waves:40", limit=10).train) == 10
    assert torch.equal(dataset("waves:9").test.signals[:1], dataset("waves:40").test.signals[:1])


def test_a_signal_has_the_same_view_in_any_batch():
    signals, ids = noise(33), torch.arange(100, 133)
    views = SignalViews(EVERYTHING, (0.1, -0.2), (1.5, 0.5))
    whole = views(signals, ids, 7, 2, 1)
    for part in (slice(0, 1), slice(5, 12), slice(32, 33)):
        assert torch.equal(views(signals[part], ids[part], 7, 2, 1), whole[part])
    order = torch.randperm(33)
    assert torch.equal(views(signals[order], ids[order], 7, 2, 1), whole[order])
    before = torch.get_rng_state()
    for other in ((8, 2, 1), (7, 3, 1), (7, 2, 0)):
        assert not torch.equal(views(signals, ids, *other), whole)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_policy_that_does_nothing_leaves_signals_alone():
    signals = noise(4)
    views = SignalViews(SignalPolicy(), (0.0, 0.0), (1.0, 1.0))
    assert torch.equal(views(signals, torch.arange(4), 0, 0, 0), signals)
    assert torch.equal(views.plain(signals), signals)
    whole = SignalViews(SignalPolicy(crop=(1.0, 1.0), shift=1e-12), (0.0, 0.0), (1.0, 1.0))
    assert torch.allclose(whole(signals, torch.arange(4), 0, 0, 0), signals, atol=1e-5)


def test_crops_and_shifts_show_a_straight_line_as_one():
    line = torch.arange(40.0).expand(64, 1, 40)
    ids = torch.arange(64)
    crop = SignalViews(SignalPolicy(crop=(0.5, 0.5)), (0.0,), (1.0,))(line, ids, 0, 0, 0)[:, 0]
    steps = crop.diff(dim=1)
    assert torch.allclose(steps[:, 1:-1], torch.full_like(steps[:, 1:-1], 0.5), atol=1e-4)  # half of it, stretched
    assert float(crop.min()) >= 0 and float(crop.max()) <= 39  # a crop stays inside
    starts = crop[:, 5]
    assert float(starts.max() - starts.min()) > 12  # anywhere
    moved = SignalViews(SignalPolicy(shift=0.25), (0.0,), (1.0,))(line, ids, 0, 0, 0)[:, 0]
    middle = moved[:, 20] - 20
    assert float(middle.abs().max()) <= 10 and float(middle.abs().max()) > 8
    assert torch.allclose(moved[:, 15:25] - moved[:, 15:16], line[0, 0, 15:25] - 15, atol=1e-4)
    assert float(moved.min()) >= 0 and float(moved.max()) <= 39  # what lies outside is reflected


def test_strength_noise_and_gaps_have_their_sizes():
    ones, ids = torch.ones(2000, 2, 50), torch.arange(2000)
    scaled = SignalViews(SignalPolicy(scale=0.4), (0.0, 0.0), (1.0, 1.0))(ones, ids, 0, 0, 0)
    logs = scaled[:, :, 0].log()
    assert torch.equal(scaled, scaled[:, :, :1].expand_as(scaled)) and float(logs.abs().max()) <= 0.4 + 1e-6
    assert float(logs.std()) == pytest.approx(0.4 / 3**0.5, rel=0.05)
    assert abs(float(torch.corrcoef(logs.T)[0, 1])) < 0.1  # each channel its own
    rough = SignalViews(SignalPolicy(jitter=0.3), (1.0, 1.0), (2.0, 2.0))(ones, ids, 0, 0, 0)
    assert float(rough.mean()) == pytest.approx(0, abs=0.01) and float(rough.std()) == pytest.approx(0.3, rel=0.01)
    gaps = SignalViews(SignalPolicy(mask=0.5), (0.0, 0.0), (1.0, 1.0))(ones, ids, 0, 0, 0) == 0
    assert torch.equal(gaps[:, 0], gaps[:, 1])
    lengths = gaps[:, 0].sum(1)
    assert int(lengths.max()) == 25 and float(lengths.double().mean()) == pytest.approx(12.5, rel=0.05)
    assert int((gaps[:, 0].int().diff(dim=1) == 1).sum(1).max()) <= 1  # one piece
    assert gaps[:, 0].any(0).all()  # anywhere


def test_policies_print_and_parse_and_views_go_through_a_checkpoint():
    assert parse(repr(EVERYTHING), {"signalpolicy": SignalPolicy}, "policy") == EVERYTHING
    data = dataset("waves:20")
    views = views_for(data, EVERYTHING)
    again = views_from(json.loads(json.dumps(describe_views(views))), dataset("waves:40"))
    assert repr(again) == repr(views)
    assert repr(views_from(None, data)) == repr(views_for(data))
    images = dataset("scenes:8")
    with pytest.raises(UserError, match=r"'scenes:8' is of images, for which SignalPolicy"):
        views_from(describe_views(views), images)
    with pytest.raises(UserError, match=r"'waves:20' is of signals, for which Policy"):
        views_from(describe_views(views_for(images)), data)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"crop": (0.5, 1.2)}, "crop is a range"), ({"crop": 0.5}, "crop is a range"), ({"mask": 1.5}, "mask lies in 0"),
     ({"jitter": -1}, "jitter lies in"), ({"scale": "much"}, "scale lies in"), ({"shift": True}, "shift lies in")],
)  # fmt: skip
def test_policies_out_of_range(options, words):
    with pytest.raises(UserError, match=words):
        SignalPolicy(**options)


def test_labels_of_a_file_are_as_many_as_its_signals(tmp_path):
    np.save(tmp_path / "x.npy", rand(40, 2, 9))
    np.save(tmp_path / "y.npy", np.arange(30) % 2)
    with pytest.raises(UserError, match="There are 40 given signals but 30 labels"):
        dataset(f"signals:{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}")


def test_own_arrays_in_any_form():
    x = np.random.default_rng(0).normal(size=(6, 2, 9))
    one = from_signals(x, [0, 1, 2] * 2, torch.from_numpy(x[:3]), [0, 1, 2])
    assert torch.equal(one.train.signals, torch.from_numpy(x).float()) and one.classes == ["0", "1", "2"]
    two = from_signals(x[:, 0].astype(">f4"), ["a", "b", "a"] * 2, x[:3, 0], ["b", "a", "a"])
    assert two.shape == (1, 9) and two.classes == ["a", "b"] and two.test.labels.tolist() == [1, 0, 0]
    assert from_signals(np.arange(40).reshape(4, 10) % 7, None, np.ones((2, 10)), None).train.labels is None


@pytest.mark.parametrize(
    ("train", "test", "labels", "words"),
    [
        (np.ones((4, 2, 9)), np.ones((2, 2, 9)), None, "never change"),
        (np.full((4, 2, 9), np.nan), np.ones((2, 2, 9)), None, "NaN or infinity in 4 rows, the first of them row 0"),
        (np.full((4, 2, 9), 1e300), np.ones((2, 2, 9)), None, "NaN or infinity in 4 rows"),
        (rand(4, 2, 9), rand(2, 2, 8), None, "do not go together"),
        (rand(4, 2, 1), rand(2, 2, 1), None, "of 2 times or more"),
        (rand(4), rand(4), None, r"have shape \[4\]"),
        (rand(0, 2, 9), rand(2, 2, 9), None, "are empty"),
        (np.array([["a", "b"]]), rand(2, 9), None, "must be numbers"),
        (rand(4, 2, 9), rand(2, 2, 9), [0, 1], "There are 4 training signals but 2 labels"),
    ],
)
def test_bad_signals(train, test, labels, words):
    with pytest.raises(UserError, match=words):
        from_signals(train, labels, test, labels)


def test_files_of_arrays(tmp_path):
    x = noise(30).numpy()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.array(["up", "down", "flat"] * 10))
    data = dataset(f"signals:{tmp_path}/x.npy,{tmp_path}/y.npy")
    assert data.classes == ["down", "flat", "up"] and (len(data.train), len(data.test)) == (24, 6)
    assert data.test.labels.bincount().tolist() == [2, 2, 2]
    rows = {row.tobytes(): label for row, label in zip(x, ["up", "down", "flat"] * 10, strict=True)}
    for split in (data.train, data.test):
        assert all(
            rows[s.numpy().tobytes()] == data.classes[k] for s, k in zip(split.signals, split.labels, strict=True)
        )
    assert dataset(f"signals:{tmp_path}/x.npy").train.labels is None
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:200])
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "short.npy", np.arange(7))
    for rest, words in (
        ("", "names one or two files"),
        ("none.npy", "none.npy cannot be read"),
        (f"{tmp_path}/cut.npy", "cannot be read"),
        (f"{tmp_path}/objects.npy", "cannot be read"),
        (f"{tmp_path}/x.npy,{tmp_path}/short.npy", "30"),
        ("a,b,c", "one or two files"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            dataset(f"signals:{rest}")
        assert "\n" not in str(caught.value)
    for name, words in (("waves:2", "from 4"), ("waves:x", "waves:N"), ("waves:40,-1", "waves:N,SEED")):
        with pytest.raises(UserError, match=words):
            dataset(name)
    with pytest.raises(UserError, match="size"):
        dataset("waves:40", size=20)


@pytest.mark.parametrize("time", [2, 9, 128])
def test_the_encoder_reads_any_length_and_no_other_signal(time):
    encoder = ResNet1d(2, 8, 3).double().train()
    signals = torch.randn(5, 2, time, dtype=torch.float64)
    features = encoder(signals)
    assert features.shape == (5, encoder.num_features) == (5, 32)
    assert torch.allclose(encoder(signals[2:3]), features[2:3], rtol=0, atol=1e-12)
    assert repr(eval(repr(encoder))) == repr(encoder) == "ResNet1d(channels=2, width=8, stages=3)"
    with pytest.raises(UserError, match=r"takes signals \[n, 2, time\], and these are \[5, 3, 9\]"):
        encoder(torch.zeros(5, 3, 9))
    with pytest.raises(UserError, match="ResNet1d's stages"):
        ResNet1d(2, stages=0)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_every_batch_exactly(world):
    data = dataset("waves:40")
    one = PairLoader(data.train, views_for(data), 8, seed=3)
    parts = [PairLoader(data.train, views_for(data), 8, seed=3).at(6, rank, world) for rank in range(world)]
    for field in range(3):
        assert torch.equal(torch.cat([part[field] for part in parts]), one.at(6)[field])


@pytest.mark.slow
def test_the_recipe_trains_is_probed_and_resumes_to_the_same_weights(run, tmp_path):
    short = ("signals", "--dataset", "waves:80", "--batch-size", 16, "--width", 8, "--save-every", 2, "--keep", 9)
    ended = run(*short, "--steps", 6, "--run-dir", "a")
    assert ended.status == 0 and "Saved in a" in ended.out, ended.err
    model = checkpoints.load(tmp_path / "a")
    assert repr(model.encoder) == "ResNet1d(channels=2, width=8, stages=3)"
    kept = json.loads((tmp_path / "a/run.json").read_text())
    assert kept["results"]["probe"] and kept["preprocessing"]["views"].startswith("SignalPolicy(")
    probed = run("infomax", "probe", "a", "--json")
    assert probed.status == 0, probed.err
    for step in (2, 4):
        place = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "a", place)
        for later in range(step + 2, 7, 2):
            shutil.rmtree(place / f"step-{later:08}")
        (place / "run.json").unlink()
        ended = run(*short, "--steps", 6, "--run-dir", place, "--resume")
        assert ended.status == 0, ended.err
        again = checkpoints.load(place).state_dict()
        assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_evaluate_gives_every_term_of_signals(tmp_path):
    data = dataset("waves:200")
    found = im.evaluate(MLP(2 * TIME), data)
    assert found.terms.label is not None and found.probes.trained.accuracy > 0


@pytest.mark.slow
def test_recipes_refuse_what_they_cannot_read(run, images, tmp_path):
    for recipe, name, words in (("signals", f"folder:{images}", "takes signals"),
                                ("simclr_smile", "waves:80", "cannot take inputs of 2x128 a sample")):  # fmt: skip
        ended = run(recipe, "--dataset", name, "--steps", 2, "--batch-size", 16)
        assert ended.status == 2 and len(ended.err.strip().splitlines()) == 1 and words in ended.err, ended.err
        assert not (tmp_path / "checkpoints").exists()
