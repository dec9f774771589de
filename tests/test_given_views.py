"""Views that are there already: rows that belong together, one walk over all ordered pairs; the page's blocks."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_questions import differences
from test_training import accelerator
from test_training import weights as state
from test_tutorials import ran

import infomax as im
from infomax import checkpoints, data, encoders
from infomax.checkpoints import open_run
from infomax.evaluation.retrieval import recalls

PAGE = Path(__file__).parents[1] / "docs/data.md"


def sources(n=90, width=5, count=3):
    """So many sensors of one thing each: rows whose first number is the sample's, in a unit of each sensor's own."""
    generator = np.random.default_rng(0)
    common = generator.normal(size=(n, width))
    common[:, 0] = np.arange(n)
    return [10**k * (common + 0.1 * generator.normal(size=(n, width)) * (np.arange(width) > 0)) for k in range(count)]


def model(width=5):
    torch.manual_seed(0)
    projector = encoders.Projector(8, hidden=8, out=4, norm="layer")
    return im.InfoMax(encoders.MLP(width, 16, 8), projector, im.Cosine(0.2), im.InfoNCE())


def test_rows_of_a_batch_are_of_one_sample_and_parts_of_processes_are_the_whole():
    views = data.given_views(*sources())
    loader: data.PairedLoader = data.PairedLoader(views.train, 12, seed=3)
    assert (len(views.train), len(views.test), len(loader)) == (72, 18, 6)
    seen = []
    for step in (*range(6), 17):
        *made, ids = loader.at(step)
        samples = views.train.indices[ids]
        for number, view in enumerate(made):
            known = views.train.views[number]
            rows = view.double() * known.std + known.mean
            torch.testing.assert_close(rows[:, 0] / 10**number, samples.double(), atol=1e-3, rtol=0)
        parts = [loader.at(step, rank, 2) for rank in range(2)]
        for place, whole in enumerate((*made, ids)):
            assert torch.equal(torch.cat([part[place] for part in parts]), whole)
        seen.append(ids)
    assert torch.cat(seen[:6]).sort().values.tolist() == list(range(72))
    assert not torch.equal(seen[0], torch.arange(12))
    assert views.fingerprint == data.given_views(*sources()).fingerprint
    assert views.fingerprint.startswith("72 + 18 samples, sha256 ")
    assert views.fingerprint != data.given_views(*sources()[::-1]).fingerprint


@torch.no_grad()
def test_three_sources_are_scored_in_every_ordered_pair():
    *made, ids = data.PairedLoader(data.given_views(*sources()).train, 24).at(0)
    whole = model()
    z = [whole.projector(whole.encoder(view)) for view in made]
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    columns, names = torch.cat(z), ids.repeat(3)
    # By hand: each row of each pair against its own column and the columns of all other samples, of every view.
    terms = []
    for i, j in pairs:
        scores = whole.critic(z[i], columns)
        for row in range(24):
            others = scores[row][names != ids[row]]
            own = scores[row, j * 24 + row]
            terms.append(own - torch.logsumexp(torch.cat([own[None], others]), 0) + np.log(len(others) + 1))
    assert float(whole([*made], ids)) == pytest.approx(float(torch.stack(terms).mean()), abs=1e-4)


def test_three_sources_train_and_a_resumed_run_has_the_same_bits(tmp_path):
    views = data.given_views(*sources())
    loader = data.PairedLoader(views.train, 24)
    schedule = lambda step: 1.0  # noqa: E731

    def going(whole, optimizer, start, steps):
        return list(im.train(whole, loader, optimizer, schedule, accelerator(), steps=steps, start=start))

    whole = model()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.01)
    found = going(whole, optimizer, 0, 12)
    assert found[-1].mi > found[0].mi + 0.5
    half = model()
    by = torch.optim.AdamW(half.parameters(), lr=0.01)
    going(half, by, 0, 5)
    configuration = {"data": views.fingerprint}
    with open_run(tmp_path / "run", "run", configuration, preprocessing=data.describe_pairs(views)) as run:
        run.save(5, half, by)
    again = im.load(tmp_path / "run")
    other = torch.optim.AdamW(again.parameters(), lr=0.01)
    checkpoint = checkpoints.read(tmp_path / "run")
    assert set(checkpoint.preprocessing or {}) == {"view1", "view2", "view3"}
    checkpoint.restore(again, other)
    going(again.train(), other, 5, 12)
    assert all(torch.equal(value, state(again)[key]) for key, value in state(whole).items())


@pytest.mark.slow
def test_a_run_keeps_what_views_are_standardised_by(tmp_path):
    np.save(tmp_path / "views.npy", np.stack(sources()))
    (tmp_path / "own.py").write_text(
        "import numpy as np\nimport infomax as im\n"
        "with im.Run(im.Settings, None, im.InfoNCE()) as run:\n"
        "    views = im.data.given_views(*np.load('views.npy'))\n"
        "    projector = im.encoders.Projector(8, hidden=8, out=4, norm='layer')\n"
        "    model = im.InfoMax(im.encoders.MLP(5, 16, 8), projector, im.Cosine(0.2), run.settings.maximised())\n"
        "    for _ in run.train(model, im.data.PairedLoader(views.train, 24), None, views):\n        pass\n"
        "    run.evaluate(views)\n"
    )
    words = [sys.executable, "own.py", "--steps", "2", "--run-dir", "kept"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    kept = checkpoints.read(tmp_path / "kept")
    assert kept.preprocessing == data.describe_pairs(data.given_views(*sources()))
    assert "Retrieval among 18 held-out pairs" in ended.stdout and "Saved in kept" in ended.stdout
    assert kept.configuration["dataset"] is None  # else the encoder would be evaluated on the recipe's default
    with pytest.raises(im.UserError, match="names no data set; say which with --dataset"):
        im.evaluate(tmp_path / "kept")
    found = im.evaluate(tmp_path / "kept", data.given_views(*sources()))
    assert found.to_dict() == json.loads((tmp_path / "kept/run.json").read_text())["results"]


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    """Where no BatchNorm normalises each process's rows by themselves; the recipe's projector has one."""
    np.save(tmp_path / "views.npy", np.stack(sources()))
    (tmp_path / "own.py").write_text(
        "import numpy as np\nimport infomax as im\n"
        "with im.Run(im.Settings, None, im.InfoNCE()) as run:\n"
        "    views = im.data.given_views(*np.load('views.npy'))\n"
        "    projector = im.encoders.Projector(8, hidden=8, out=4, norm='layer')\n"
        "    model = im.InfoMax(im.encoders.MLP(5, 16, 8), projector, im.Cosine(0.2), run.settings.maximised())\n"
        "    for _ in run.train(model, im.data.PairedLoader(views.train, 24), None, views):\n        pass\n"
    )
    two = [Path(sys.executable).parent / "torchrun", "--standalone", "--nproc_per_node", "2"]
    for starts, folder in (([sys.executable], "one"), (two, "two")):
        words = [*starts, "own.py", "--steps", "5", "--run-dir", folder]
        ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr
    one, two = (
        [json.loads(line)["mi"] for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()]
        for folder in ("one", "two")
    )
    assert len(one) == 5
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("im.data.dataset(s.dataset, limit=s.limit)", "digits"),
        ("im.data.dataset(s.dataset, limit=50)", None),  # the option says 200
        ("replace(opened, test=opened.test.subset(range(40)))", None),
        ("im.data.from_tensors(opened.train.images, None, opened.test.images, None, name='digits')", None),
    ],
)
def test_a_run_keeps_the_options_name_of_the_data_that_it_opens_alone(made, named, tmp_path):
    """Else a later probe, which opens it, would silently be of other data."""
    (tmp_path / "own.py").write_text(
        "from dataclasses import replace\nimport infomax as im\n"
        "with im.Run(im.Settings, None, im.InfoNCE()) as run:\n"
        "    s = run.settings\n    opened = im.data.dataset(s.dataset, limit=s.limit)\n"
        f"    data = {made}\n"
        "    size = data.shape[0] * data.shape[1] * data.shape[2]\n"
        "    encoder = im.encoders.MLP(size, 16, 8)\n"
        "    projector = im.encoders.Projector(8, hidden=8, out=4, norm='layer')\n"
        "    model = im.InfoMax(encoder, projector, im.Cosine(0.2), s.maximised())\n"
        "    loader = im.data.PairLoader(data.train, im.data.views_for(data), 24)\n"
        "    for _ in run.train(model, loader, None, data):\n        pass\n"
    )
    words = [sys.executable, "own.py", "--steps", "1", "--run-dir", "kept", "--dataset", "digits", "--limit", "200"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert checkpoints.read(tmp_path / "kept").configuration["dataset"] == named
    if "from_tensors" in made:  # begun when the option's name was kept whatever was trained on
        path = tmp_path / "kept/run.json"
        path.write_text(path.read_text().replace('"dataset": null', '"dataset": "digits"'))
        words = [*words[:3], "2", *words[4:], "--resume"]
        ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr
        assert checkpoints.read(tmp_path / "kept").configuration["dataset"] is None
    if named is None:
        with pytest.raises(im.UserError, match="names no data set; say which with --dataset"):
            im.evaluate(tmp_path / "kept")


def test_data_know_how_they_are_opened_until_they_are_changed():
    images = data.dataset("digits", limit=50)
    assert images.opened == ("digits", 50, False) and replace(images, test=images.train).opened is None
    assert data.from_tensors(images.train.images, None, images.test.images, None, name="digits").opened is None
    assert data.paired("halves:digits").opened == ("halves:digits", None, False)
    assert data.halves(images).opened is None and replace(data.paired("halves:digits"), notes=()).opened is None
    assert "opened" not in repr(images)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (sources()[:1], "and 1 is given"),
        ([*sources()[:2], sources(width=4)[0]], r"view1 has shape \[90, 5\] and view3 \[90, 4\]"),
        ([sources()[0], sources(80)[0]], r"view1 has shape \[90, 5\] and view2 \[80, 5\]"),
        ([np.zeros((9, 3), int)] * 2, "view1 holds whole numbers.*floating point"),
        ([np.full((9, 3), np.nan)] * 2, "view1 has NaN"),
        ([np.zeros((2, 3))] * 2, "Of 2 samples 0 cannot be held out"),
    ],
)
def test_what_is_no_views_is_a_sentence(arrays, says):
    with pytest.raises(im.UserError, match=says):
        data.given_views(*arrays)


def test_images_are_views():
    images = [torch.randint(0, 256, (20, 3, 8, 8)).byte() for _ in range(2)]
    view1, view2, ids = data.PairedLoader(data.given_views(*images).train, 4).at(0)
    assert view1.shape == view2.shape == (4, 3, 8, 8) and view1.dtype == torch.float32 and len(ids) == 4


BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", PAGE.read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_page_runs_and_prints_what_it_says(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = BLOCKS[number]
    assert differences(said, ran("python", code, {"__name__": "data"})) == []


def test_an_evaluation_of_given_views_is_of_the_first_two():
    views = data.given_views(*sources())
    found = im.evaluate(model(), views)
    assert found.of == "first two views" and found.pairs == 18
    with torch.no_grad():
        z = model().eval().features(*views.test.batch(torch.arange(18))[:2])
    assert found.x_to_y.to_dict() == recalls(model().critic, *z)[0].to_dict()
    twin = im.evaluate(model(), data.pairs(*sources()[:2]))  # drawn by the same seed, and standardised alike
    assert twin.to_dict() == found.to_dict()
    with pytest.raises(im.UserError, match="one encoder reads all views, so they need one shape"):
        im.evaluate(model(), data.pairs(sources()[0], sources(width=4)[1]))


def test_views_are_standardised_as_a_saved_run_had_them_where_there_are_as_many():
    views, other = data.given_views(*sources()), data.given_views(*(3 * view for view in sources()))
    said = data.describe_pairs(views)
    as_saved = data.describe_pairs(data.pairs_from(said, other))
    assert as_saved["y"]["mean"] == said["view2"]["mean"] != data.describe_pairs(other)["view2"]["mean"]
    alone = data.given_views(*sources()[1:])  # the last two, of three: by their own training rows
    assert data.describe_pairs(data.pairs_from(said, alone))["x"]["mean"] == said["view2"]["mean"]


def test_views_by_name_are_those_of_the_arrays(tmp_path):
    paths = [tmp_path / f"{number}.npy" for number in range(3)]
    for path, view in zip(paths, sources(), strict=True):
        np.save(path, view)
    name = f"views:{','.join(map(str, paths))}"
    named = data.named_views(name, limit=40)
    assert named.fingerprint == data.given_views(*sources(), limit=40).fingerprint
    assert named.opened == (name, 40, False) and named.shape == (5,)
    halves = data.named_views("halves:digits")
    assert (
        halves.shape == (1, 4, 8) and len(halves.train.views) == 2 and halves.opened == ("halves:digits", None, False)
    )
    with pytest.raises(im.UserError, match=r"im.data.named_views opens"):
        data.paired(name)
