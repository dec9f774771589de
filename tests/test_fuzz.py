"""Whatever a file holds, reading it gives what it is or a UserError, in bounded time and memory, and runs nothing."""

import contextlib
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import infomax as im
from infomax import checkpoints, data, models
from infomax.checkpoints import DamagedError, files, snapshot
from infomax.errors import UserError
from infomax.spelling import parse
from infomax.ui.sides import array

pytestmark = [pytest.mark.faults, pytest.mark.slow]
BOUNDED = settings(
    max_examples=100, deadline=60_000, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.sampled_from([0, -1, 2**31, 2**40, 2**62, 10**12, 10**30]), st.floats()
)
WORDS = st.sampled_from(
    ["", "..", "../../x", "/etc/passwd", "F64", "BF16", "F4", "I8", "SMILE(tau=3)", "os:system('x')", "Projector(4)",
     "Projector(4, hidden=10**9)", "Linear(1000000000000, 4)", "Linear(200000, 200000)", "resnet152", "hf-hub:a/b",
     "Linear(4, 2)", "Identity", "InfoMax", "os:Their", "projector",
     "$tensor", "model.safetensors", "nan", "\0", "(" * 3000, "Separable(4, 4, hidden=2**40)"]
)  # fmt: skip
TAGS = st.sampled_from(["$tensor", "$array", "$dict", "$tuple", "$float"])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(WORDS, TAGS), inner, max_size=3),
    ),
    max_leaves=6,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """No reader may ask for 4 GB more than there is in use: it would get a MemoryError, and the test fail."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def model() -> im.InfoMax:
    torch.manual_seed(0)
    encoder = im.encoder("resnet10_small_gn", in_chans=1, channels=[2, 2, 4, 4], stem_width=2)
    projector = im.encoders.Projector(4, hidden=4, out=2, norm="layer")
    return im.InfoMax(encoder, projector, im.Cosine(0.3, learn=True), im.MINE())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one checkpoint, with a trained optimizer. To be copied."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    trained(torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)).backward()
    optimizer.step()
    checkpoints.save(trained, folder, step=3, optimizer=optimizer, configuration={"recipe": "x", "lr": 1e-3})
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Callable[[], Path]:
    def copy() -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(saved, tmp_path / "run")
        return tmp_path / "run"

    return copy


def sealed(step: Path) -> None:
    """What an attacker does after changing a file: all checksums are right again."""
    (step / "MANIFEST.json").unlink()
    snapshot.seal_folder(step)


def read_in_every_way(folder: Path) -> int:
    """How many ways were refused. Anything but a UserError comes through."""
    refused = 0

    def restored() -> None:
        fresh = model()
        optimizer = torch.optim.AdamW(fresh.parameters(), lr=1e-3)
        generator, before = torch.get_rng_state(), {k: v.clone() for k, v in fresh.state_dict().items()}
        try:
            checkpoints.read(folder).restore(fresh, optimizer)
        except UserError:
            assert all(torch.equal(before[k], v) for k, v in fresh.state_dict().items())
            assert not optimizer.state and torch.equal(generator, torch.get_rng_state())
            raise

    def resumed() -> None:
        checkpoints.open_run(folder, "run", {"recipe": "x", "lr": 1e-3}, resume=True).close()

    state = torch.get_rng_state()
    for way in (
        lambda: checkpoints.load(folder), lambda: checkpoints.load_encoder(folder), restored, resumed,
    ):  # fmt: skip
        try:
            way()
        except UserError:
            refused += 1
        finally:
            torch.set_rng_state(state)
    return refused


def places(content: Any, path: tuple = ()) -> list[tuple]:
    """The path of everything in a JSON value."""
    found = [path]
    if isinstance(content, dict):
        found += [p for key, value in content.items() for p in places(value, (*path, key))]
    elif isinstance(content, list):
        found += [p for i, value in enumerate(content) for p in places(value, (*path, i))]
    return found


def changed(content: Any, path: tuple, value: Any, drop: bool) -> Any:
    if not path:
        return value
    content = json.loads(json.dumps(content))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if drop and isinstance(inner, dict):
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


def test_what_is_whole_is_read_in_every_way(copied):
    assert read_in_every_way(copied()) == 0
    folder = copied()
    sealed(folder / "step-00000003")
    assert read_in_every_way(folder) == 0


@BOUNDED
@given(choice=st.integers(0, 10**9), value=JSON, drop=st.booleans())
def test_any_state(copied, choice, value, drop):
    folder = copied()
    path = folder / "step-00000003/state.json"
    state = json.loads(path.read_text())
    where = places(state)
    path.write_text(json.dumps(changed(state, where[choice % len(where)], value, drop)))
    sealed(folder / "step-00000003")
    read_in_every_way(folder)


@BOUNDED
@given(choice=st.integers(0, 10**9), value=JSON, drop=st.booleans())
def test_any_description_of_a_model(copied, choice, value, drop):
    folder = copied()
    path = folder / "step-00000003/state.json"
    state = json.loads(path.read_text())
    where = places(state["model"])
    state["model"] = changed(state["model"], where[choice % len(where)], value, drop)
    path.write_text(json.dumps(state))
    sealed(folder / "step-00000003")
    read_in_every_way(folder)


class Headed(im.InfoMax):
    """With options of every kind and a list of parts."""

    def __init__(self, encoder, projector, critic, objective, heads, queue=4, table=None, width=(2, 3)):
        super().__init__(encoder, projector, critic, objective)
        self.heads, self.queue, self.table, self.width = heads, queue, table, width
        self.register_buffer("kept", torch.zeros(queue, 2))


@BOUNDED
@given(choice=st.integers(0, 10**9), value=JSON, drop=st.booleans())
def test_any_description_of_a_model_of_options_and_nested_parts(tmp_path, choice, value, drop):
    models.registry["headed"] = Headed
    try:
        folder = tmp_path / "headed"
        if not folder.exists():
            whole = model()
            heads = nn.ModuleList([nn.Identity(), im.encoders.Projector(2, hidden=2, out=2, norm="layer")])
            made = Headed(whole.encoder, whole.projector, whole.critic, whole.objective, heads, table={"a": [1, {}]})
            checkpoints.save(made, folder, step=3)
            assert isinstance(checkpoints.load(folder), Headed)
            shutil.copy(folder / "step-00000003/state.json", tmp_path / "state.json")
        state = json.loads((tmp_path / "state.json").read_text())
        where = places(state["model"])
        state["model"] = changed(state["model"], where[choice % len(where)], value, drop)
        (folder / "step-00000003/state.json").write_text(json.dumps(state))
        sealed(folder / "step-00000003")
        read_in_every_way(folder)
        with contextlib.suppress(UserError):
            checkpoints.read_part(folder, "heads")
        with contextlib.suppress(UserError):
            checkpoints.read_parts(folder)
    finally:
        del models.registry["headed"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": [2, 2, 4, 10**7]}, {"channels": [10**15, 2, 4, 4]}, {"layers": [10**7, 1, 1, 1]},
        {"channels": [2, 2, 4, -4]}, {"stem_width": 10**9}, {"num_classes": 10**12}, {"img_size": 10**9},
    ],
)  # fmt: skip
def test_an_encoder_of_giant_or_negative_sizes_is_refused_in_no_time(copied, arguments):
    folder = copied()
    path = folder / "step-00000003/state.json"
    state = json.loads(path.read_text())
    state["model"]["parts"]["encoder"]["arguments"] |= arguments
    path.write_text(json.dumps(state))
    sealed(folder / "step-00000003")
    for way in (checkpoints.load, checkpoints.load_encoder):
        with pytest.raises(UserError):
            way(folder)


HEADERS = [
    {"shape": [2**62, 2**62]}, {"shape": [10**18]}, {"shape": [-1]}, {"shape": [-(2**63), 2]}, {"shape": [0]},
    {"shape": [2.5]}, {"shape": None}, {"shape": "8"}, {"dtype": "F4"}, {"dtype": "Q99"}, {"data_offsets": [0, 2**63]},
    {"data_offsets": [8, 0]}, {"data_offsets": [-8, 8]}, {"data_offsets": []}, {"dtype": "BOOL"},
]  # fmt: skip


def with_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("entry", HEADERS, ids=str)
def test_giant_negative_and_odd_shapes_in_a_header_are_refused(copied, name, entry):
    folder = copied()
    path = folder / "step-00000003" / name

    def change(header: dict[str, Any]) -> dict[str, Any]:
        key = next(key for key in header if key != "__metadata__")
        return {**header, key: {**header[key], **entry}}

    with_header(path, change)
    sealed(folder / "step-00000003")
    with pytest.raises(DamagedError, match=name):
        checkpoints.read(folder).tensors(name)
    read_in_every_way(folder)


@BOUNDED
@given(
    name=st.sampled_from(["model.safetensors", "optimizer.safetensors"]),
    choice=st.integers(0, 10**9),
    value=JSON,
    drop=st.booleans(),
)
def test_any_header(copied, name, choice, value, drop):
    folder = copied()

    def change(header: dict[str, Any]) -> Any:
        where = places(header)
        return changed(header, where[choice % len(where)], value, drop)

    with_header(folder / "step-00000003" / name, change)
    sealed(folder / "step-00000003")
    read_in_every_way(folder)


@BOUNDED
@given(
    name=st.sampled_from(["model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json", "../run.json"]),
    content=st.one_of(st.binary(max_size=60), JSON.map(lambda v: json.dumps(v).encode())),
    place=st.floats(0, 1),
    seal=st.booleans(),
)
def test_any_bytes(copied, name, content, place, seal):
    """Spliced into a file, or in its stead."""
    folder = copied()
    path = folder / "step-00000003" / name
    old = path.read_bytes()
    at = int(place * len(old))
    path.write_bytes(content if place > 0.9 else old[:at] + content + old[at + len(content) :])
    if seal and name != "MANIFEST.json":
        sealed(folder / "step-00000003")
    read_in_every_way(folder)


@BOUNDED
@given(names=st.dictionaries(st.one_of(WORDS, st.text(max_size=12)), JSON, max_size=3))
def test_any_name_in_a_manifest(copied, names):
    folder = copied()
    path = folder / "step-00000003/MANIFEST.json"
    content = json.loads(path.read_text())
    content["files"] |= names
    path.write_text(json.dumps({**content, "sha256": files.seal_of(content)}))
    if any(names.keys() - content["files"].keys()):
        assert read_in_every_way(folder) == 4


CALLS = st.sampled_from(["SMILE", "MINE", "Anchor", "antigravity:Thing", "this:s"])  # modules that would be seen


@BOUNDED
@given(text=st.one_of(st.text(max_size=30), WORDS, st.builds(lambda name, value: f"{name}({value!r})", CALLS, JSON)))
def test_any_spelling(text):
    with contextlib.suppress(UserError):
        parse(text, im.objectives.registry, "objective", allow_imports=False)
    assert not {"antigravity", "this"} & set(sys.modules)


@BOUNDED
@given(
    descr=st.sampled_from(["<f8", "|O", "<f4", "<i8", "|S9", "<U1000000000", "x", "[('a', '<f8')]"]),
    shape=st.lists(st.one_of(st.integers(-3, 6), st.sampled_from([10**9, 2**62, 10**30])), max_size=3),
    tail=st.binary(max_size=64),
)
def test_any_array(tmp_path, descr, shape, tail):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {tuple(shape)!r}, }}".encode()
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + tail)
    with contextlib.suppress(UserError):
        assert isinstance(array(path), np.ndarray)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tif", "webp", "ppm"])
@settings(BOUNDED, max_examples=25)
@given(flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6), cut=st.floats(0.05, 1))
def test_any_image(tmp_path, suffix, flips, cut):
    for name in ("a/0", "a/1", "b/0", "b/1"):
        path = tmp_path / f"{name}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(path)
    content = bytearray((tmp_path / f"a/0.{suffix}").read_bytes())
    for place, value in flips:
        content[int(place * len(content))] = value
    (tmp_path / f"a/0.{suffix}").write_bytes(content[: int(cut * len(content))])
    told = ""
    try:
        found = data.dataset(f"folder:{tmp_path}")
        assert len(found.train) + len(found.test) == 4
    except UserError as error:
        told = str(error)
    assert told == "" or f"a/0.{suffix}" in told


def test_names_that_leave_the_checkpoints_are_refused():
    for name in ("../up", "a/../../b", "/abs", "..", "a\\b", os.sep, "~", "a\0"):
        with pytest.raises(UserError, match="cannot name a run"):
            checkpoints.default_folder(name)
