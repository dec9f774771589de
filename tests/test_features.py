"""Features in memory and on disk: the same numbers, bounded memory, refusals in a sentence, nothing left behind."""

import gc
import os
import signal
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_probing import clouds
from torch import nn

import infomax as im
from infomax.data import from_tensors
from infomax.data.targets import Target
from infomax.errors import UserError
from infomax.evaluation import Store, finetune, logistic, nearest, probe_all, probing, targets
from infomax.evaluation import features as features_module
from infomax.evaluation.evaluate import Pixels
from infomax.evaluation.features import features, free_memory, held, left_by_limits, of_array
from infomax.evaluation.finetune import finetuned
from infomax.evaluation.probing import probe_features
from infomax.evaluation.targets import probe_targets

DISK = Store(memory=0)


def stored(x: np.ndarray, store: Store, rows: int = 37):
    """An array as features that came in batches."""
    return store.hold((x[i : i + rows] for i in range(0, len(x), rows)), len(x))


@pytest.fixture
def narrow(monkeypatch):
    """Blocks of a few rows, so that small data has many of them."""
    from infomax.evaluation import features as module

    for where, name, value in (
        (module, "ELEMENTS", 150), (module, "WINDOW", 200), (logistic, "ELEMENTS", 150), (logistic, "KEPT", 0),
        (nearest, "QUERIES", 16), (nearest, "BANK", 24),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, value)


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_and_blocks_are_the_same_from_memory_and_disk(dtype, narrow):
    x = np.random.default_rng(0).normal(size=(101, 7)).astype(np.float32)
    memory, disk = (stored(x, Store(limit, dtype=dtype)) for limit in (10**9, 0))
    assert (memory.on_disk, disk.on_disk) == (False, True)
    assert memory.shape == disk.shape == x.shape and len(disk) == 101
    at = np.random.default_rng(1).permutation(101)[:60]
    for found in (memory, disk):
        assert np.array_equal(found.rows(at), x.astype(dtype).astype(np.float32)[at])
        for where in (None, at, np.array([5, 5, 0])):
            blocks = list(found.blocks(where, 8))
            assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
            assert np.array_equal(
                np.concatenate(blocks),
                x.astype(dtype).astype(np.float32)[at if where is at else slice(None) if where is None else where],
            )
    assert [len(b) for b in memory.blocks()] == [len(b) for b in disk.blocks()] and len(list(disk.blocks())) > 4
    assert np.array_equal(
        disk.mapped(lambda rows: 2 * rows[:, :3]).rows(at), memory.mapped(lambda rows: 2 * rows[:, :3]).rows(at)
    )


def test_features_above_a_share_of_free_memory_go_to_disk_and_others_do_not():
    x = np.zeros((1000, 4), np.float32)
    assert not stored(x, Store()).on_disk
    assert not stored(x, Store(memory=16_000)).on_disk
    assert stored(x, Store(memory=15_999)).on_disk
    assert not stored(x, Store(memory=8_000, dtype="float16")).on_disk
    assert 0 < free_memory() < 2**50
    assert str(stored(x, DISK)) == "1000 x 4 features on disk, 0.0 MiB"


# ------------------------------------------------------------------------------------------------------------- numbers


def without_place(found):
    return found.to_dict() | {"right": found.right}


@pytest.mark.parametrize("classes", [2, 4])
def test_probes_are_the_same_to_the_last_digit_from_memory_and_disk(classes, narrow):
    (x, y), (t, u) = clouds(400, classes), clouds(200, classes, seed=1)
    memory = probe_features(stored(x, Store(10**9)), y, stored(t, Store(10**9)), u)
    disk = probe_features(stored(x, DISK), y, stored(t, DISK), u)
    assert without_place(memory) == without_place(disk) == without_place(probe_features(x, y, t, u))
    assert memory.accuracy > 0.8 and memory.knn > 0.8


def test_the_size_of_blocks_changes_nothing_but_rounding(request):
    (x, y), (t, u) = clouds(400), clouds(200, seed=1)
    whole = probe_features(x, y, t, u)
    request.getfixturevalue("narrow")
    small = probe_features(x, y, t, u)
    assert small.right is not None and whole.right is not None
    assert small.knn == whole.knn and small.right["knn"] == whole.right["knn"]
    assert small.accuracy == pytest.approx(whole.accuracy, abs=0.006)
    assert small.protocol["linear"]["C"] == whole.protocol["linear"]["C"]


@pytest.mark.parametrize("classes", [2, 5])
def test_the_regression_by_blocks_is_scikit_learns(classes, narrow):
    from sklearn.linear_model import LogisticRegression

    x, y = clouds(300, classes, gap=1.0)
    X = stored(x, DISK)
    scale = logistic.standardiser(X)
    blocks = logistic.rows_of(X, None, scale, classes)
    assert len(list(blocks())) > 10
    for C, own in zip((0.01, 1.0), logistic.path(blocks, y, 6, classes, [0.01, 1.0], tolerance=1e-7), strict=True):
        theirs = LogisticRegression(C=C, tol=1e-9, max_iter=2000).fit(((x - x.mean(0)) / x.std(0)).astype(float), y)
        assert own.weight == pytest.approx(theirs.coef_, abs=2e-4)
        assert own.bias == pytest.approx(theirs.intercept_, abs=2e-4)
        assert np.array_equal(own.answers(scale(x)), theirs.predict((x - x.mean(0)) / x.std(0)))


def traced(call: Callable[[], object]) -> int:
    """Bytes that a second call, which imports nothing, holds at most."""
    call()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_linear_probes_hold_what_the_table_of_docs_says(monkeypatch):
    monkeypatch.setattr(logistic, "KEPT", 0)
    monkeypatch.setattr(probing, "SHOTS_C_GRID", (1e-3,))  # less of each, for the test's time
    monkeypatch.setattr(probing, "CHOOSING_DRAWS", 1)
    for module in (features_module, logistic):
        monkeypatch.setattr(module, "ELEMENTS", 2**14)
    k, d = 20, 400
    y = np.arange(30 * k) % k
    x = np.random.default_rng(0).normal(size=(len(y), d)).astype(np.float32)
    x[np.arange(len(y)), y] += 3
    X, T = (of_array(part, "features") for part in (x, x[:100]))
    fit, held_out = np.arange(400), np.arange(400, 600)
    r = min(d, 10 * k)
    svd = traced(lambda: np.linalg.svd(x[: 10 * k], full_matrices=False))  # with LAPACK's own memory from NumPy 2.5 on
    assert svd < 1.05 * (320 * k * d + 48 * r**2)
    for holds, what, before in (
        (lambda: probing._linear(X, y, T, fit, held_out), 360 * k * d, 0),
        (lambda: probing._shots(X, y, T, 0, range(k)), 180 * k * d + 330 * k * r, 120 * k * d + svd),
    ):
        peak = traced(holds)
        assert 0.5 * what < peak < max(1.15 * what, before) + 8 * 2**16, peak / (k * d)  # and some blocks


def test_a_column_that_does_not_vary_is_no_feature():
    x = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    x[:, 1] = -0.4242129623889923  # of which float32 sums over rows find another mean
    scale = logistic.standardiser(stored(x, DISK))
    assert scale.deviation[1] == 1 and np.abs(scale(x)[:, 1]).max() < 1e-6
    assert scale.mean == pytest.approx(x.astype(float).mean(0), abs=1e-7)
    assert scale.deviation[[0, 2]] == pytest.approx(x.astype(float).std(0)[[0, 2]], rel=1e-6)


def exact(n: int, seed: int):
    """Unit rows [n, 16] of four parts of one half: cosines are multiples of 1/4, exact in any order, with many ties."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 16), np.float32)
    for row in x:
        row[rng.choice(16, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return x


@pytest.mark.parametrize(("few", "many"), [(7, 13), (5, 40), (200, 11), (1024, 8192)])
def test_neighbours_are_exact_and_ties_go_to_the_first_whatever_the_blocks(few, many, monkeypatch):
    monkeypatch.setattr(nearest, "QUERIES", few)
    monkeypatch.setattr(nearest, "BANK", many)
    bank, queries = exact(300, 0), exact(40, 1)
    for store in (Store(10**9), DISK):
        parts = list(nearest.nearest(stored(bank, store), stored(queries, store), 10))
        values, places = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
        cosines = queries @ bank.T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :10]
        assert np.array_equal(places, order)
        assert np.array_equal(values, np.take_along_axis(cosines, order, 1))
    assert (np.sort(cosines, 1)[:, -10] == np.sort(cosines, 1)[:, -11]).mean() > 0.5, "ties at the tenth place"


def test_neighbours_among_some_rows_of_a_bank_many_blocks_wide(narrow):
    rng = np.random.default_rng(0)
    bank, queries = (rng.normal(size=(n, 9)).astype(np.float32) for n in (2000, 50))
    of, at = np.sort(rng.choice(2000, 1500, replace=False)), np.array([3, 49, 7])
    parts = list(nearest.nearest(stored(bank, DISK), stored(queries, DISK), 20, of=of, at=at))
    unit = bank[of] / np.linalg.norm(bank[of], axis=1, keepdims=True)
    order = np.argsort(-(queries[at] @ unit.T), axis=1, kind="stable")[:, :20]
    assert np.array_equal(torch.cat([places for _, places in parts]).numpy(), order)


@pytest.mark.parametrize("d", [3, 60, 300])
def test_targets_are_the_same_from_memory_and_disk(d, narrow, monkeypatch):
    monkeypatch.setattr(targets, "COLUMNS", 40)  # 60 columns of 80 images: projected, and 300 of them
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(80, d)).astype(np.float32), rng.normal(size=(50, d)).astype(np.float32)
    y, u = ((Target("age", torch.from_numpy(40 + 9.0 * z[:, 0])),) for z in (x, t))
    found = [probe_targets(stored(x, s), y, stored(t, s), u) for s in (Store(10**9), DISK)]
    assert found[0] == found[1] == probe_targets(torch.from_numpy(x), y, torch.from_numpy(t), u)
    assert found[0][0].protocol["projected"] == (d > 40)


# -------------------------------------------------------------------------------------------------------------- images


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(240) % 2
    x = torch.randint(0, 100, (240, 1, 8, 8), generator=generator, dtype=torch.uint8)
    x[y == 0, :, :4] += 60
    return from_tensors(x[:160], y[:160], x[160:], y[160:], name="halves")


@pytest.mark.slow
def test_an_encoder_is_probed_from_disk_as_from_memory(images):
    said: list[str] = []
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    disk = probe_all(encoder, images, said=said.append, store=DISK)
    assert disk.to_dict() == probe_all(encoder, images).to_dict()
    assert said[-2:] == ["Probing the encoder", "Probing the encoder, 160 x 5 features on disk, 0.0 MiB"]
    assert im.probe(encoder, images, store=DISK) == im.probe(encoder, images)


def test_features_of_one_encoder_end_before_others_are_made(images, monkeypatch):
    alive: list[weakref.ref] = []

    def held_alone(*args, **options):
        if len(alive) % 2 == 0:  # of a training part
            gc.collect()
            assert not any(one() for one in alive)
        found = held(*args, **options)
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(sys.modules["infomax.evaluation.evaluate"], "held", held_alone)
    probe_all(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), images)
    assert len(alive) == 4


def test_float16_rounds_features_wherever_they_are(images):
    half = [im.probe(nn.Flatten(), images, store=Store(memory, dtype="float16")) for memory in (0, 10**9)]
    assert half[0] == half[1] and half[0].protocol["dtype"] == "float16"
    plain = im.data.views_for(images).plain
    kept = held(nn.Flatten(), images.train, plain, store=Store(0, dtype="float16"))
    whole = features(nn.Flatten(), images.train, plain).numpy()
    assert np.array_equal(np.concatenate(list(kept.blocks())), whole.astype(np.float16))


@pytest.mark.slow
def test_fine_tuning_starts_from_features_on_disk(images):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    plain = im.data.views_for(images).plain
    assert finetuned(encoder, images, plain, store=DISK) == finetune(encoder, images).trained


def test_pixels_of_large_images_are_averaged():
    small, grey, large = torch.rand(2, 3, 64, 64), torch.rand(2, 1, 96, 40), torch.rand(2, 3, 224, 224)
    assert torch.equal(Pixels()(small), small.flatten(1)) and torch.equal(Pixels()(grey), grey.flatten(1))
    assert Pixels()(large).shape == (2, 3 * 64 * 64)
    assert Pixels()(large).mean() == pytest.approx(float(large.mean()), abs=1e-3)
    signal = torch.rand(2, 2, 40_000)
    assert Pixels()(signal).shape == (2, 12_288)
    assert Pixels()(torch.rand(2, 20_000, 2, 2)).shape == (2, 20_000)


# ----------------------------------------------------------------------------------------------------- refusals, faults


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Store(dtype="float8"), "float32 or float16, not float8. Did you mean"),
        (lambda: Store(memory=-1), "give 0 or more"),
        (lambda: Store(folder=Path("/nowhere/at/all")), "cannot be written into /nowhere/at/all .*--scratch"),
        (lambda: stored(np.full((9, 2), 1e6), Store(dtype="float16")), "beyond float16, .* in 9 of 9 rows"),
        (lambda: stored(np.full((9, 2), 1e300), Store()), "hold NaN or infinity in 9 of 9 rows"),
        (lambda: stored(np.full((9, 2), 1e300), Store(dtype="float16")), "hold NaN or infinity in 9 of 9 rows"),
        (lambda: stored(np.full((9, 2), 3e-8), Store(dtype="float16")), "too small for float16: .*100%.*as float32"),
        (lambda: stored(np.full((9, 2), np.nan), DISK), r"hold NaN or infinity in 9 of 9 rows \(0, 1, 2, 3, 4, ...\)"),
        (lambda: DISK.hold([], 0), "There are no images"),
        (lambda: of_array(np.zeros(3), "The features"), r"shape \[3\]"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


@pytest.mark.parametrize("store", [Store(10**9), DISK])
@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ([(8, 2)], "F have 8 rows or more for 6 images"),
        ([(4, 2), (4, 2)], "F have 8 rows or more for 6 images"),
        ([(4, 2), (2, 1)], "F have 2 columns at first and 1 from row 4 on"),
        ([(4, 2), (2, 3)], "F have 2 columns at first and 3 from row 4 on"),
        ([(4, 2)], "F have 4 rows for 6 images"),
        ([(6, 0)], r"F have shape \[6, 0\]"),
        ([(6,)], r"F have shape \[6\]"),
    ],
)
def test_blocks_of_other_shapes_are_refused(store, shapes, sentence):
    with pytest.raises(UserError, match=sentence):
        store.hold((np.ones(shape, np.float32) for shape in shapes), 6, "F")


def test_an_encoder_of_two_rows_an_image_is_refused_in_a_sentence(images):
    class Twice(nn.Module):
        def forward(self, x):
            return torch.cat([x, x]).flatten(1)

    with pytest.raises(UserError, match="The encoder's features have 320 rows or more for 160 images"):
        im.probe(Twice(), images)


def test_an_encoder_that_gives_no_tensor_is_refused_in_a_sentence(images):
    class Named(nn.Module):
        def forward(self, x):
            return {"features": x.flatten(1)}

    with pytest.raises(UserError, match=r"The encoder, a Named, returns a dict for .* images?, where one tensor"):
        im.probe(Named(), images)


def test_some_tiny_features_among_others_are_kept_in_float16():
    x = np.where(np.arange(60).reshape(20, 3) % 3 == 0, 1e-7, 1.0).astype(np.float32)
    assert stored(x, Store(dtype="float16")).shape == (20, 3)
    assert stored(np.zeros((20, 3)), Store(dtype="float16")).shape == (20, 3)


def test_limits_of_control_groups_leave_what_no_page_of_a_live_file_takes(tmp_path):
    group = tmp_path / "outer" / "inner"
    group.mkdir(parents=True)
    for folder, limit, used, pages in (
        (group, "max", 500, 0),
        (group.parent, 1000, 900, 300),
        (tmp_path, 5000, 9000, 1),
    ):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 7\ninactive_file {pages}\nactive_file 50\n")
    assert left_by_limits(group, tmp_path) == [400, 0]
    assert left_by_limits(group, group.parent) == [400]
    assert left_by_limits(tmp_path / "none", tmp_path / "none") == []


def test_a_disk_without_room_is_refused_before_anything_is_written():
    blocks = iter([np.zeros((1, 2**20), np.float32)])
    with pytest.raises(UserError, match=r"take .* GiB of disk, and .* has .* left: .*--dtype float16"):
        DISK.hold(blocks, 2**32)


def test_the_command_refuses_in_a_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    for options, sentence in (
        (("--dtype", "int8"), "float32 or float16, not int8"),
        (("--scratch", tmp_path / "file"), "cannot be written into"),
        (("--memory", "much"), "--memory 'much' is no size"),
    ):
        ended = run("infomax", "probe", tmp_path, *options)
        assert (ended.status, ended.out) == (2, "") and sentence in ended.err and "Traceback" not in ended.err


CHILD = """
import os, psutil, resource, signal, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
import infomax as im
from infomax.evaluation.features import Store
from infomax.evaluation.probing import probe_features
"""


def child(code: str, *words: object) -> subprocess.CompletedProcess:
    # Without bytecode, of which Python 3.11 keeps what a limit of files has cut.
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
                        "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    command = [sys.executable, "-c", CHILD + code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


WRITES = """
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def blocks():
    for i in range(8):
        if i == 6 and len(sys.argv) > 3:
            os.kill(os.getpid(), int(sys.argv[3]))
        yield np.zeros((1000, 25), np.float32)
try:
    Store(memory=0, folder=folder).hold(blocks(), 8000)
except im.UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_write_that_fails_is_a_sentence_and_leaves_nothing(tmp_path):
    ended = child(WRITES, tmp_path, 250_000)
    assert "could not be written into" in ended.stdout and "--scratch" in ended.stdout, ended.stderr
    assert (ended.returncode, ended.stderr, list(tmp_path.iterdir())) == (0, "", [])


@pytest.mark.slow
def test_a_kill_leaves_no_file(tmp_path):
    ended = child(WRITES, tmp_path, 10**9, int(signal.SIGKILL))
    assert (ended.returncode, list(tmp_path.iterdir())) == (-signal.SIGKILL, [])


LIMITED = """
n, d, extra = 200_000, 256, int(sys.argv[1]) * 2**20

def labels(n, seed):
    return np.random.default_rng(seed).integers(0, 3, n)

def blocks(y, seed):
    rng = np.random.default_rng(seed)
    for part in np.split(y, range(2000, len(y), 2000)):
        rows = rng.standard_normal((len(part), d), dtype=np.float32)
        rows[np.arange(len(part)), part] += 6
        yield torch.from_numpy(rows)

from infomax.evaluation import probing
probing.KNN_HELD_OUT, probing.DRAWS, probing.C_GRID = 200, 5, (1e-6,)  # fewer of each, for the test's time
torch.set_num_threads(1)
store = Store(memory=0)
y, t = labels(3000, 2), labels(300, 3)
probe_features(store.hold(blocks(y, 2), 3000), y, store.hold(blocks(t, 3), 300), t)  # whatever is imported late
held = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (held + extra, held + extra))
y, t = labels(n, 0), labels(300, 1)
X, T = store.hold(blocks(y, 0), n), store.hold(blocks(t, 1), 300)
found = probe_features(X, y, T, t)
print(X, found.accuracy, found.knn, found.shots_10)
try:
    Store(memory=2**40).hold(blocks(y, 0), n)
except MemoryError:
    print("in memory they do not fit")
"""


@pytest.mark.slow
def test_features_several_times_larger_than_memory_are_probed():
    ended = child(LIMITED, 64)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("200000 x 256 features on disk, 195.3 MiB 1.0 1.0"), ended.stdout
    assert ended.stdout.endswith("in memory they do not fit\n"), "the limit holds"
