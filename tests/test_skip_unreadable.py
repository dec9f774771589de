"""--skip-unreadable: files that cannot be read are left out, counted, listed, and part of what a run is resumed on."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import TINY, write_images

from infomax import checkpoints
from infomax.data import PairLoader, dataset, paired, views_for
from infomax.data import folder as module
from infomax.errors import UserError

BAD = ("0/003.png", "0/011.png", "1/004.png")


def spoil(folder):
    """Three files, each in another way: empty, no image, cut in its pixels with a whole header."""
    (folder / BAD[0]).write_bytes(b"")
    (folder / BAD[1]).write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (folder / BAD[2]).write_bytes((folder / BAD[2]).read_bytes()[:-60])
    return folder


@pytest.fixture
def whole(tmp_path):
    return write_images(tmp_path / "whole", classes=2, each=30)


@pytest.fixture
def spoilt(tmp_path):
    return spoil(write_images(tmp_path / "spoilt", classes=2, each=30))


def everything(data):
    return torch.cat([part.batch(range(len(part))) for part in (data.train, data.test)])


@pytest.mark.parametrize("budget", [None, 0])
def test_what_cannot_be_read_is_left_out_and_the_rest_is_as_it_was(whole, spoilt, budget, monkeypatch, caplog):
    if budget is not None:  # decoded as they are needed: a damaged file would otherwise be met in the middle of a run
        monkeypatch.setattr(module, "MEMORY_BUDGET", budget)
    data = dataset(f"folder:{spoilt}", skip_unreadable=True)
    assert data.left_out == BAD
    note = "3 of 60 images are left out, as they cannot be read: 0/003.png, 0/011.png, 1/004.png."
    assert data.notes == (note,) and note in caplog.text
    # Each of the others keeps its part: those of a folder that never had the three are the same ones.
    before = dataset(f"folder:{whole}")
    lost = 0
    for part in ("train", "test"):
        here, there = (getattr(d, part).batch(range(len(getattr(d, part)))) for d in (data, before))
        rows = {tuple(row) for row in there.flatten(1).tolist()}
        assert {tuple(row) for row in here.flatten(1).tolist()} <= rows
        lost += len(there) - len(here)
    assert lost == 3 and data.train.labels is not None and len(data.train.labels) == len(data.train)
    with pytest.raises(UserError, match=r"003\.png is empty \(0 bytes\): .*--skip-unreadable"):
        dataset(f"folder:{spoilt}").train.batch(range(40))


def test_without_such_files_nothing_is_different(whole):
    plain, asked = dataset(f"folder:{whole}"), dataset(f"folder:{whole}", skip_unreadable=True)
    assert asked.notes == () and asked.left_out == ()
    assert asked.fingerprint == plain.fingerprint and torch.equal(everything(asked), everything(plain))


def test_what_was_left_out_is_part_of_the_fingerprint(whole, spoilt):
    found = dataset(f"folder:{spoilt}", skip_unreadable=True)
    assert re.fullmatch(r"4\d \+ 1\d images without 3 left out, sha256 [0-9a-f]{16}", found.fingerprint)
    for name in BAD:  # removed, so that the same images are read and others were left out
        (spoilt / name).unlink()
    # The fifth that is held out is one of those that are there, so the parts are another's too.
    assert dataset(f"folder:{spoilt}", skip_unreadable=True).fingerprint != found.fingerprint


def test_deep_files_of_several_channels_are_left_out_alike(tmp_path):
    import tifffile

    rng = np.random.default_rng(0)
    for number in range(20):
        tifffile.imwrite(
            tmp_path / f"{number:02}.tif",
            rng.integers(0, 4000, (4, 12, 12)).astype(np.uint16),
            photometric="minisblack",
        )
    (tmp_path / "05.tif").write_bytes((tmp_path / "05.tif").read_bytes()[:-700])
    np.full((12, 12), np.nan).tofile(tmp_path / "06.tif")
    data = dataset(f"folder:{tmp_path}", skip_unreadable=True)
    assert data.left_out == ("05.tif", "06.tif") and data.shape == (4, 12, 12) and len(everything(data)) == 18


def test_a_missing_package_is_no_damage(tmp_path, monkeypatch):
    """Else a machine without tifffile would train on other images, and say no more than how many were left out."""
    import sys

    import tifffile

    for number in range(10):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.full((4, 8, 8), number, np.uint16), photometric="minisblack",
                         planarconfig="separate")  # fmt: skip
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match="pip install tifffile"):
        dataset(f"folder:{tmp_path}", skip_unreadable=True)


def test_a_table_may_name_files_that_are_not_there(spoilt):
    names = sorted(str(path.relative_to(spoilt)) for path in spoilt.rglob("*.png"))
    rows = [f"{name},{name[0]}" for name in [*names, "1/never.png"]]
    table = spoilt / "table.csv"
    table.write_text("\n".join(["path,label", *rows]))
    with pytest.raises(UserError, match=r"1 of 61 images .* are not there, for instance .*never\.png in line 62"):
        dataset(f"csv:{table}")
    data = dataset(f"csv:{table}", skip_unreadable=True)
    assert sorted(data.left_out) == sorted([*BAD, "1/never.png"])
    assert data.notes == (
        "4 of 61 images are left out, as they cannot be read: 0/003.png, 0/011.png, 1/004.png and 1 more.",
    )
    table.write_text("\n".join(["path,label", *rows, ",1"]))
    with pytest.raises(UserError, match="1 of 62 images"):  # a row without a name is a mistake of the table
        dataset(f"csv:{table}", skip_unreadable=True)


@pytest.mark.parametrize("name", ["digits", "scenes:20", "waves"])
def test_what_is_not_files_of_images_refuses_it(name):
    with pytest.raises(UserError, match=r"--skip-unreadable goes with folder:PATH, .*is not read from files"):
        dataset(name, skip_unreadable=True)


@pytest.mark.parametrize("lost", ["*/*.png", "1/*.png", "train", "test"])
def test_too_few_that_are_left_are_said(lost, tmp_path):
    folder = write_images(tmp_path / "a", classes=2, each=10)
    if lost in ("train", "test"):
        for part in ("train", "test"):
            write_images(folder / part, classes=2, each=5)
        for label in "01":
            for file in (folder / label).iterdir():
                file.unlink()
            (folder / label).rmdir()
        lost = f"{lost}/*/*.png"
    for file in folder.glob(lost):
        file.write_bytes(b"")
    what = "no test image" if lost.startswith("test") else "no training image of 1" if lost[0] == "1" else "no training"
    count = {"*": 20, "1": 10, "t": 10}[lost[0]]
    with pytest.raises(UserError, match=rf"Too few images .* are left, {what}.*: {count} of 20 images are left out"):
        dataset(f"folder:{folder}", skip_unreadable=True)


def test_a_batch_larger_than_what_is_left_says_what_was_left_out(spoilt):
    data = dataset(f"folder:{spoilt}", skip_unreadable=True)
    with pytest.raises(
        UserError, match=r"which has 4\d training images \(3 that cannot be read are left out\): choose"
    ):
        PairLoader(data.train, views_for(data), 48)


def test_halves_of_image_files(spoilt):
    pairs = paired(f"halves:folder:{spoilt}", skip_unreadable=True)
    assert pairs.left_out == BAD and len(pairs.train) + len(pairs.test) == 57
    with pytest.raises(UserError, match="--skip-unreadable goes with halves:NAME"):
        paired("names:emoji", skip_unreadable=True)


# Runs.


def arguments(folder):
    return (*TINY, "--steps", 2, "--health-every", 0, "--probe-every", 0, "--dataset", f"folder:{folder}")


@pytest.mark.slow
def test_a_run_counts_and_lists_them_and_resumes_on_the_same_alone(run, tmp_path, spoilt, caplog):
    asked = ("simclr_smile", *arguments(spoilt), "--run-dir", "run", "--skip-unreadable")
    ended = run(*asked)
    assert ended.status == 0, ended.err
    assert "3 of 60 images are left out, as they cannot be read: 0/003.png" in caplog.text
    configuration = json.loads((tmp_path / "run/run.json").read_text())["configuration"]
    assert configuration["data_left_out"] == list(BAD) and configuration["skip_unreadable"] is True
    assert run(*asked, "--resume").out == "run is finished: its results are in run.json.\n"
    again = run(*asked, "--resume", "--steps", 3)
    assert again.status == 0 and checkpoints.read(tmp_path / "run").step == 3
    (spoilt / BAD[0]).write_bytes((spoilt / "0/004.png").read_bytes())  # mended meanwhile
    ended = run(*asked, "--resume", "--steps", 4)
    assert ended.status == 2 and re.search(r"data is '.*without 3 left out.* there and '.*without 2 left", ended.err)
    (spoilt / BAD[0]).write_bytes(b"")
    (spoilt / "1/007.png").write_bytes(b"")  # one more is damaged
    ended = run(*asked, "--resume", "--steps", 4)
    assert ended.status == 2 and re.search(r"data is '.*without 3 left out.* there and '.*without 4 left", ended.err)


def test_a_refused_run_says_so_and_leaves_nothing(run, tmp_path, spoilt):
    ended = run("simclr_smile", *arguments(spoilt))
    assert ended.status == 2 and "--skip-unreadable" in ended.err and ended.err.count("\n") == 1, ended.err
    ended = run("simclr_smile", *arguments(spoilt), "--skip-unreadable", "--batch-size", 60)
    assert ended.status == 2
    assert "training images (3 that cannot be read are left out)" in ended.err.splitlines()[-1]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_another_folder_is_probed_alike(run, spoilt, finished, caplog):
    words = ("infomax", "probe", finished[0], "--dataset", f"folder:{spoilt}")
    ended = run(*words)
    assert ended.status == 2 and "003.png is empty" in ended.err
    ended = run(*words, "--skip-unreadable")
    assert ended.status == 0 and "3 of 60 images are left out" in caplog.text, ended.err
    assert "trained encoder" in ended.out


@pytest.mark.slow
def test_what_a_run_left_out_is_left_out_when_it_is_read_again(run, spoilt, caplog):
    assert run("simclr_smile", *arguments(spoilt), "--run-dir", "run", "--skip-unreadable").status == 0
    caplog.clear()
    ended = run("infomax", "probe", "run")
    assert ended.status == 0 and "3 of 60 images are left out" in caplog.text, ended.err


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cpc", "deep_infomax", "moco", "multicrop", "simclr_nwj", "clip"])
def test_every_recipe_of_images_takes_it(recipe, run, tmp_path, spoilt):
    options = {"cpc": ("--patch", 4, "--stride", 2, "--batch-size", 8, "--ahead", 1), "deep_infomax": ("--local", 0),
               "moco": ("--queue", 16), "multicrop": ("--crops", 1, "--crop-size", 8)}  # fmt: skip
    words = [*arguments(spoilt), *options.get(recipe, ())]
    if recipe == "clip":
        words = [word.replace("folder:", "halves:folder:") if isinstance(word, str) else word for word in words]
    ended = run(recipe, *words, "--run-dir", "run", "--skip-unreadable")
    assert ended.status == 0, ended.err
    assert json.loads((tmp_path / "run/run.json").read_text())["configuration"]["data_left_out"] == list(BAD)
