"""Files that are whole or absent, JSON without surprises, a lock, and generators put back."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from infomax import files, randomness


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    files.write_whole(path, lambda p: files.write_text(p, "one"))

    def fails(place: Path) -> None:
        place.write_text("half")
        raise ValueError("half-way")

    for target in (path, tmp_path / "b.txt"):
        with pytest.raises(ValueError, match="half-way"):
            files.write_whole(target, fails)
    assert path.read_text() == "one" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    files.write_json(path, {"x": (1, float("inf"), np.float32(0.5), torch.tensor([2]), Path("here"))})
    assert json.loads(path.read_text()) == {"x": [1, "inf", 0.5, [2], "here"]}
    with pytest.raises(TypeError, match="object cannot be written"):
        files.write_json(path, {"x": object()})
    assert json.loads(path.read_text())["x"][0] == 1


def test_numbers_that_json_lacks_are_spelt_as_asked():
    value = {1: [float("nan"), -np.inf, (True, None, "nan")]}
    assert files.plain(value) == {"1": ["nan", "-inf", [True, None, "nan"]]}
    assert files.finite(value) == {"1": [None, None, [True, None, "nan"]]}


def test_a_lock_is_held_once(tmp_path):
    held = files.lock(tmp_path / "lock")
    assert held is not None  # all file systems that the tests run on have locks
    with pytest.raises(BlockingIOError):
        files.lock(tmp_path / "lock")
    os.close(held)
    again = files.lock(tmp_path / "lock")
    assert again is not None
    os.close(again)
    (tmp_path / "link").symlink_to(tmp_path / "lock")
    with pytest.raises(OSError, match="symbolic"):
        files.lock(tmp_path / "link")


def test_generators_are_put_back():
    def drawn() -> tuple:
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    before = randomness.random_state()
    first = drawn()
    assert drawn() != first
    randomness.set_random_state(before)
    assert drawn() == first
    state = randomness.torch_state(torch.device("cpu"))
    assert set(state) == {"torch"}
    numbers = torch.rand(3)
    randomness.set_torch_state(state, torch.device("cpu"))
    assert torch.equal(torch.rand(3), numbers)


def test_a_folder_is_whole_or_absent_and_never_replaces_what_holds_something(tmp_path):
    def half(place: Path) -> None:
        (place / "a.txt").write_text("half")
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        files.write_whole_folder(tmp_path / "deep/out", half)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == []

    def whole(place: Path) -> None:
        (place / "within").mkdir()
        (place / "within/a.txt").write_text("one")

    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        files.write_whole_folder(tmp_path / name, whole)
        assert (tmp_path / name / "within/a.txt").read_text() == "one"
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        files.write_whole_folder(tmp_path / "full", whole)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "empty", "full", "new"]
