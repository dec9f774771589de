"""Two modalities, many views, and what two towers are worth on held-out pairs."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import saved_in

import infomax as im
from infomax import checkpoints, data, encoders
from infomax.evaluation import retrieval
from infomax.evaluation.retrieval import evaluate_towers, recall


def arrays(n=60, seed=0):
    x = np.random.default_rng(seed).normal(3, 2, (n, 4)).astype(np.float32)
    return x, np.arange(n * 2).reshape(n, 2)


def with_tokens(x, y, **options):
    """Pairs of numbers and of tokens, as arrays() gives them."""
    return data.pairs(x, y, vocabulary={"y": 1000}, **options)


def images(count=20, channels=1, height=7):
    pixels = torch.randint(0, 256, (count, channels, height, 8), generator=torch.Generator().manual_seed(0))
    return data.from_tensors(pixels.byte(), None, pixels[:6].byte(), None)


# ------------------------------------------------------------------------------------------------------------- loaders


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_parts_of_processes_are_the_global_batch(world):
    loader = data.PairedLoader(with_tokens(*arrays()).train, 12, seed=3)
    for step in (0, 3, 4, 9):
        whole = loader.at(step)
        parts = [loader.at(step, rank, world) for rank in range(world)]
        for i, expected in enumerate(whole):
            assert torch.equal(torch.cat([part[i] for part in parts]), expected)
    with pytest.raises(im.UserError, match="12 pairs cannot be shared evenly by 5 processes"):
        loader.at(0, 0, 5)


def test_seed_and_step_fix_the_order_and_an_epoch_has_each_pair_once():
    pairs = with_tokens(*arrays())
    one, again, other = (data.PairedLoader(pairs.train, 12, seed) for seed in (3, 3, 4))
    assert len(one) == 48 // 12
    for step in (7, 0, 3):  # in any order
        assert all(torch.equal(a, b) for a, b in zip(one.at(step), again.at(step), strict=True))
        assert not torch.equal(one.at(step)[2], other.at(step)[2])
    for epoch in range(2):
        ids = torch.cat([one.at(4 * epoch + step)[2] for step in range(4)])
        assert ids.sort().values.tolist() == list(range(48))
    assert not torch.equal(one.at(0)[2], one.at(4)[2])


def test_rows_of_a_batch_belong_together():
    x, y = arrays()
    pairs = with_tokens(x, y)
    for split in (pairs.train, pairs.test):
        found_x, found_y = split.batch(torch.arange(len(split)))
        rows = found_y[:, 0] // 2  # row i of y begins with 2 i
        assert torch.equal(rows, split.indices) and found_y.dtype == torch.long
        mean, std = split.x.mean, split.x.std
        torch.testing.assert_close((found_x * std + mean).float(), torch.from_numpy(x)[rows])
    together = torch.cat([pairs.train.indices, pairs.test.indices]).sort().values
    assert together.tolist() == list(range(60)) and len(pairs.test) == 12


def test_training_rows_alone_standardise():
    x, y = arrays()
    first = with_tokens(x, y)
    changed = x.copy()
    changed[first.test.indices.numpy()] += 1000
    second = with_tokens(changed, y)
    assert torch.equal(first.train.x.mean, second.train.x.mean) and torch.equal(first.train.x.std, second.train.x.std)
    rows = first.train.batch(torch.arange(48))[0]
    torch.testing.assert_close(rows.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)
    constant = with_tokens(np.ones((60, 2)), y).train.batch(torch.arange(4))[0]
    assert torch.equal(constant, torch.zeros(4, 2))


def test_the_fingerprint_is_of_all_pairs():
    x, y = arrays()
    known = with_tokens(x, y).fingerprint
    assert known == with_tokens(x.copy(), y).fingerprint and known.startswith("48 + 12 pairs, sha256 ")
    changed = x.copy()
    changed[17, 2] += 1
    other = {
        with_tokens(changed, y).fingerprint, with_tokens(x, y + 1).fingerprint, with_tokens(x, y, seed=1).fingerprint,
        with_tokens(x, y, test=13).fingerprint, with_tokens(x, y, limit=40).fingerprint,
    }  # fmt: skip
    assert len(other) == 5 and known not in other


def test_halves_are_the_image():
    split = images()
    found = data.halves(split)
    assert (found.train.x.shape, found.train.y.shape) == ((1, 3, 8), (1, 4, 8))  # the odd row is the bottom's
    assert (len(found.train), len(found.test)) == (20, 6)
    top, bottom = found.train.batch(torch.arange(20))
    mean, std = zip((found.train.x.mean, found.train.x.std), (found.train.y.mean, found.train.y.std), strict=True)
    whole = torch.cat([top * std[0] + mean[0], bottom * std[1] + mean[1]], 2) * 255
    torch.testing.assert_close(whole.float(), split.train.batch(torch.arange(20)).float(), atol=1e-3, rtol=0)
    with pytest.raises(im.UserError, match=r"Images of 1 pixels? in height have no halves"):
        data.halves(images(height=1))


@pytest.mark.parametrize(
    ("x", "y", "options", "told"),
    [
        (np.zeros((9, 2)), np.zeros((8, 2)), {}, "x has 9 rows and y has 8"),
        (np.full((9, 2), np.inf), np.zeros((9, 2)), {}, "x has NaN or infinity in 9 rows, the first of them row 0"),
        (np.zeros((9, 2)), np.array(["a"] * 9), {}, "y must hold numbers, and has <U1"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"test": 8}, "Of 9 pairs 8 cannot be held out"),
        (np.zeros((9, 2)), np.zeros((9, 2)), {"test": 0}, "Of 9 pairs 0 cannot be held out"),
        (np.float64(2), np.zeros((1, 2)), {}, r"x must be rows of numbers \[n, ...\], and has shape \[\]"),
    ],
)
def test_what_is_no_pairs_is_a_sentence(x, y, options, told):
    with pytest.raises(im.UserError, match=told):
        data.pairs(x, y, **options)


# --------------------------------------------------------------------------------------------------------- many views


def test_two_views_are_the_same_however_they_are_asked_for():
    split = images(height=8)
    views = data.views_for(split)
    one: Any = data.PairLoader(split.train, views, 8, 5)
    two: Any = data.PairLoader(split.train, [views, views], 8, 5)
    for step in (0, 3):
        batch = one.at(step)
        assert type(two.at(step)) is type(batch) and batch._fields == ("view1", "view2", "ids")
        assert all(torch.equal(a, b) for a, b in zip(batch, two.at(step), strict=True))


def test_each_view_has_a_number_of_its_own():
    split = images(height=8)
    views = data.views_for(split)
    small = data.Views(views.policy, views.mean, views.std, (4, 5))
    loader = data.PairLoader(split.train, [views, views, small, small, views], 8, 5)
    *made, ids = loader.at(2)
    pair: Any = data.PairLoader(split.train, views, 8, 5).at(2)
    assert torch.equal(made[0], pair.view1) and torch.equal(made[1], pair.view2) and torch.equal(ids, pair.ids)
    assert [tuple(view.shape) for view in made] == [(8, 1, 8, 8)] * 2 + [(8, 1, 4, 5)] * 2 + [(8, 1, 8, 8)]
    assert not torch.equal(made[2], made[3]) and not any(torch.equal(made[4], view) for view in made[:2])
    parts = [loader.at(2, rank, 2) for rank in range(2)]
    for i, view in enumerate(made):
        assert torch.equal(torch.cat([part[i] for part in parts]), view)
    with pytest.raises(im.UserError, match="needs two views or more"):
        data.PairLoader(split.train, [views], 8)


def test_sizes_of_views():
    split = images(height=8)
    views = data.views_for(split)
    for size in ((0, 4), (4,), (2.0, 4)):
        with pytest.raises(im.UserError, match="size is"):
            data.Views(views.policy, views.mean, views.std, size)  # pyright: ignore[reportArgumentType]
    large = data.Views(views.policy, views.mean, views.std, (9, 8))
    with pytest.raises(im.UserError, match="A crop of 9 x 8 pixels is larger than the images, which have 8 x 8"):
        data.PairLoader(split.train, [large, large], 8).at(0)
    whole = data.Views(views.policy, views.mean, views.std, (8, 8))
    same, plain = (data.PairLoader(split.train, each, 8).at(0) for each in (whole, views))
    assert torch.equal(same[0], plain[0])


# ----------------------------------------------------------------------------------------------------------- retrieval


def test_recall_by_hand():
    scores = torch.tensor([
        [9.0, 1, 2, 3],  # first
        [5.0, 4, 1, 0],  # one above
        [1.0, 2, 2, 0],  # one of two that tie for the first place: half a hit
        [7.0, 8, 9, 1],  # the last
    ])  # fmt: skip
    found = recall(scores)
    assert found.values == {1: (1 + 0 + 0.5 + 0) / 4}  # k = 5 and 10 are more than there are
    low, high = found.intervals[1]
    assert 0 < low < 0.375 < high < 1
    assert recall(torch.eye(4)).values == {1: 1.0} and recall(1 - torch.eye(4)).values == {1: 0.0}
    assert recall(torch.zeros(4, 4)).values[1] == 0.25  # where all are alike, what chance finds
    assert recall(torch.zeros(20, 20)).values == pytest.approx({1: 0.05, 5: 0.25, 10: 0.5})


def test_recall_among_more():
    scores = torch.zeros(12, 12)
    for i in range(12):  # i candidates come before the right one
        scores[i] = torch.tensor(
            [1.0 if place in [j for j in range(12) if j != i][:i] else -1.0 for place in range(12)]
        )
        scores[i, i] = 0
    assert recall(scores).values == pytest.approx({1: 1 / 12, 5: 5 / 12, 10: 10 / 12})
    assert recall(scores).to_dict().keys() == {f"recall@{k}{end}" for k in (1, 5, 10) for end in ("", "_interval")}


def test_towers_alone_are_evaluated():
    with pytest.raises(im.UserError, match="Retrieval is of two towers, and this is a Linear"):
        evaluate_towers(torch.nn.Linear(2, 2), with_tokens(*arrays()))


@pytest.mark.slow
def test_the_information_of_correlated_gaussians_is_found(tmp_path):
    correlation, n = 0.8, 6000
    known = -math.log(1 - correlation**2) / 2
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, 1))
    y = correlation * x + math.sqrt(1 - correlation**2) * generator.normal(size=(n, 1))
    pairs = data.pairs(x.astype(np.float32), y.astype(np.float32))
    torch.manual_seed(0)
    towers = [encoders.MLP(1, 32, 16) for _ in range(2)]
    projectors = [encoders.Projector(16, hidden=32, out=8, norm="layer") for _ in range(2)]
    model = im.TwoTower(towers[0], towers[1], projectors[0], projectors[1], im.Cosine(0.2, learn=True), im.SMILE())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = data.PairedLoader(pairs.train, 128)
    from test_training import accelerator

    list(im.train(model, loader, optimizer, lambda step: 1.0, accelerator(), steps=150))
    modes = [module.training for module in model.modules()]
    found = evaluate_towers(model, pairs)
    assert [module.training for module in model.modules()] == modes
    low, high = found.mi.interval
    assert low <= known <= high, (found.mi.interval, known)
    assert found.pairs == 1200 and found.x_to_y.values[10] > 2 * 10 / 1200
    checkpoints.save(model, tmp_path / "run")
    lines = str(found).splitlines()
    assert lines[0].startswith(f"Retrieval among {found.pairs} held-out pairs") and "Recall(" not in str(found)
    assert lines[1] == f"x -> y  {found.x_to_y}" and lines[2] == f"y -> x  {found.y_to_x}"
    assert f"@10 {100 * found.x_to_y.values[10]:.1f} [" in lines[1]
    assert lines[3] == f"I(X; Y) of the projections: {found.mi.statement}"
    again = evaluate_towers(tmp_path / "run", pairs)
    assert (again.x_to_y, again.y_to_x, again.mi.mi) == (found.x_to_y, found.y_to_x, found.mi.mi)


def test_too_few_pairs_for_an_mi_leave_retrieval(tmp_path, capsys):
    from infomax import ui
    from infomax.ui import report

    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    pairs = data.pairs(x, x)
    model = im.TwoTower(
        torch.nn.Linear(3, 2),
        torch.nn.Linear(3, 2),
        torch.nn.Identity(),
        torch.nn.Identity(),
        im.Cosine(0.2),
        im.InfoNCE(),
    )
    found = evaluate_towers(model, pairs)
    why = "There are 48 training and 12 held-out pairs, and I(X; Y) takes 64 and 10 or more: add pairs."
    assert found.mi == why and found.pairs == 12 and 0 <= found.x_to_y.values[1] <= 1
    assert found.to_dict()["estimate"] == {"not_measured": why} and why in str(found)
    ui.print_results(found, "there", "Health.")
    out = capsys.readouterr().out.splitlines()
    assert out[3:] == [f"I(X; Y) of the modalities: not measured: {why}", "Health.", "Saved in there"]
    page = report.of_towers(found, tmp_path)
    assert why in page and "y found by x" in page


@pytest.mark.slow
def test_a_run_of_own_pairs_is_read_by_the_command_line(run, tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 3))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[:, :2] + generator.normal(size=(400, 2)))
    ended = run("clip", "--dataset", "pairs:x.npy,y.npy", "--batch-size", 32, "--steps", 20)
    assert ended.status == 0, ended.err
    assert saved_in(ended.out) == "checkpoints/clip"
    saved = json.loads((tmp_path / "checkpoints/clip/run.json").read_text())
    results, kept = saved["results"], saved["preprocessing"]
    trained = data.paired(f"pairs:{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}").train
    assert kept["x"]["mean"] == trained.x.mean.tolist() and kept["y"]["std"] == trained.y.std.tolist()
    for command in ("estimate", "probe"):
        done = run("infomax", command, "checkpoints/clip", "--json")
        assert done.status == 0, (command, done.err)
        json.loads(done.out)
    for option, value in (("--memory", "8GiB"), ("--scratch", "."), ("--dtype", "float32")):
        refused = run("infomax", "probe", "checkpoints/clip", option, value)
        assert (refused.status, refused.out) == (2, "")
        assert f"{option} goes with a run of one encoder" in refused.err and "Traceback" not in refused.err
    assert results["retrieval"]["pairs"] == 80
    report = run("infomax", "report", "checkpoints/clip", "--json")
    assert report.status == 0, report.err
    page = (tmp_path / json.loads(report.out)["report"]).read_text()
    for heading in ("Retrieval", "recall@1", "y found by x", "Training", "I(X; Y) of the two modalities"):
        assert heading in page, heading


@pytest.mark.parametrize("critic", [im.Cosine(0.2), im.Bilinear(5, 5), im.Concat(5, 5, hidden=8)])
def test_recall_by_blocks_is_that_of_the_matrix(critic, monkeypatch):
    zx, zy = torch.randn(2, 23, 5, generator=torch.Generator().manual_seed(0))
    zy = zx + 0.7 * zy
    zy[3] = zy[4]  # ties
    with torch.no_grad():
        scores = critic(zx, zy)
        monkeypatch.setattr(retrieval, "BLOCK", 60)  # two rows at a time
        assert retrieval.recalls(critic, zx, zy) == (recall(scores), recall(scores.T))


def test_nothing_is_found_by_scores_that_are_not_finite():
    with pytest.raises(im.UserError, match="not finite"):
        recall(torch.full((20, 20), math.nan))


# ------------------------------------------------------------------------------------------------------- standardising


@pytest.mark.parametrize("far", ["times", "huge", "small", "sorted"])
def test_numbers_of_any_size_are_standardised_by_all_training_rows(far):
    t = np.random.default_rng(0).normal(size=20_000)
    x = {"times": 1.7e9 + t, "huge": 1e300 * t, "small": 1e-10 * t, "sorted": np.arange(20_000.0)}[far]
    pairs = data.pairs(x, t)
    found = pairs.train.batch(torch.arange(len(pairs.train)))[0].double()
    assert len(found.unique()) > 15_000
    assert float(found.mean()) == pytest.approx(0, abs=1e-4) and float(found.std()) == pytest.approx(1, abs=1e-3)


def test_a_constant_column_stays_constant():
    x = np.stack([np.full(100, 1e9 + 0.1), np.arange(100.0)], 1)
    pairs = data.pairs(x, x)
    assert float(pairs.train.batch(torch.arange(80))[0][:, 0].abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: data.pairs([[1.0], [1.0, 2.0]] * 20, np.zeros(40)), "rows of one length each"),
        (lambda folder: with_tokens(*arrays(), limit=-5), "limit keeps at least 2 training pairs, and not -5"),
        (lambda folder: with_tokens(*arrays(), limit=0), "limit keeps at least 2"),
        (lambda folder: with_tokens(*arrays(), test=True), "and not True"),
        (lambda folder: data.paired(f"pairs:{folder}/a.npz,{folder}/a.npz"), "an archive of arrays"),
    ],
)
def test_what_cannot_be_pairs_is_said_in_a_sentence(make, says, tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((9, 2)))
    with pytest.raises(im.UserError, match=says):
        make(tmp_path)


def test_other_pairs_are_standardised_as_those_of_training_were():
    x, _ = arrays()
    known = data.describe_pairs(data.pairs(x, x))
    assert json.loads(json.dumps(known)) == known
    other = data.pairs(5 * x + 7, x)
    read = data.pairs_from(known, other)
    rows = torch.arange(len(other.train))
    expected = (torch.from_numpy(5 * x + 7)[other.train.indices] - torch.tensor(known["x"]["mean"])) / torch.tensor(
        known["x"]["std"]
    )
    torch.testing.assert_close(read.train.batch(rows)[0], expected.float())
    assert torch.equal(data.pairs_from(None, other).train.batch(rows)[0], other.train.batch(rows)[0])
    with pytest.raises(im.UserError, match="trained on x of 4 columns or channels, and these pairs have 3"):
        data.pairs_from(known, data.pairs(x[:, :3], x))
    with pytest.raises(im.UserError, match="is no mean and std"):
        data.pairs_from({"x": 3}, other)
