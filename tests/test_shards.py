"""shards: what webdataset writes is read sample for sample, in an order that (seed, epoch) fix, on any processes."""

import io
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from infomax import checkpoints
from infomax.data import PairLoader, dataset, views_for
from infomax.data import folder as module
from infomax.data.keyed import BUFFER, shard_by_shard
from infomax.errors import UserError

NAMES = ["cat", "dog", "owl"]


def pixels(shard: int, n: int) -> np.ndarray:
    return np.random.default_rng(shard).integers(0, 256, (n, 8, 9, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    made = io.BytesIO()
    Image.fromarray(picture).save(made, "png")
    return made.getvalue()


def write(path: Path, shard: int, n: int = 10, label=lambda i: {"cls": i % 3}, image: str = "png") -> Path:
    """n samples by webdataset's own writer, s<shard>-<number>."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as tar:
        for i, picture in enumerate(pixels(shard, n)):
            tar.write({"__key__": f"s{shard}-{i:03}", image: png(picture), **label(i)})
    return path


@pytest.fixture
def shards(tmp_path):
    """Four training shards of 10 samples, and one of 10 to test on."""
    for shard in range(4):
        write(tmp_path / f"train-{shard:03}.tar", shard)
    write(tmp_path / "test-000.tar", 9)
    return tmp_path


def rows(split) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.batch(range(len(split)))]


def expected(*shards: int, n: int = 10) -> list[bytes]:
    return [picture.transpose(2, 0, 1).tobytes() for shard in shards for picture in pixels(shard, n)]


def test_what_webdataset_wrote_is_read(shards, caplog):
    data = dataset(f"shards:{shards}/{{train-{{000..003}},test-000}}.tar")
    assert rows(data.train) == expected(0, 1, 2, 3) and rows(data.test) == expected(9)
    assert data.classes == ["0", "1", "2"]
    assert data.train.labels.tolist() == [i % 3 for i in range(10)] * 4
    assert data.train.shards.tolist() == [shard for shard in range(4) for _ in range(10)]
    line = "50 samples in 5 shards. The images are field png, the labels field cls (3 classes)."
    assert data.notes == (line,) and line in caplog.text
    # webdataset reads the same samples, in the same order.
    with (shards / "train-000.tar").open("rb") as file:
        members = ({"__url__": "", **member} for member in webdataset.tariterators.tar_file_iterator(file))
        theirs = list(webdataset.tariterators.group_by_keys(members))
    assert [np.array(Image.open(io.BytesIO(s["png"]))).transpose(2, 0, 1).tobytes() for s in theirs] == expected(0)
    assert [int(sample["cls"]) for sample in theirs] == data.train.labels.tolist()[:10]


@pytest.mark.parametrize("pattern", ["{}", "{}/*.tar", "{0}/train-{{000..003}}.tar::{0}/test-000.tar"])
def test_patterns_name_the_same_shards(pattern, shards):
    data = dataset(f"shards:{pattern.format(shards)}")
    assert sorted(rows(data.train)) == sorted(expected(0, 1, 2, 3)) and rows(data.test) == expected(9)


def test_without_a_test_shard_a_fixed_fifth_is_held_out(shards):
    one = dataset(f"shards:{shards}/train-{{000..003}}.tar")
    assert (len(one.train), len(one.test)) == (33, 7)  # 16 + 12 + 12, a fifth of each class
    assert sorted(rows(one.train) + rows(one.test)) == sorted(expected(0, 1, 2, 3))
    assert "There is no test part, so a fixed fifth of train is held out." in one.notes
    (shards / "only").mkdir()
    shutil.copy(shards / "test-000.tar", shards / "only" / "000.tar")
    other = dataset(f"shards:{shards / 'only'}")
    assert "No shard is called train or test, so a fixed fifth of the samples is held out." in other.notes


def test_an_order_goes_through_the_shards_one_by_one():
    sizes = [5, 40, 1, 20]
    numbers = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    order = shard_by_shard(numbers, 0, 0)
    assert torch.equal(order.sort().values, torch.arange(66))
    assert torch.equal(order, shard_by_shard(numbers, 0, 0))
    assert not torch.equal(order, shard_by_shard(numbers, 0, 1)) and not torch.equal(
        order, shard_by_shard(numbers, 1, 0)
    )


def test_samples_are_shuffled_within_the_buffer_and_shards_are_read_once():
    each, count = 3000, 12
    numbers = torch.arange(count).repeat_interleave(each)
    first, firsts = None, set()
    for epoch in range(3):
        order = shard_by_shard(numbers, 5, epoch)
        seen = numbers[order]
        starts = [int((seen == shard).nonzero()[0]) for shard in range(count)]
        ends = [int((seen == shard).nonzero()[-1]) for shard in range(count)]
        for start, end in zip(starts, ends, strict=True):  # each within the buffers that its samples lie in
            assert end - start <= each + 2 * BUFFER
        turn = np.argsort(starts)
        assert first is None or not np.array_equal(turn, first)
        first = turn
        firsts.add(int(order[0]))
        window = order[:BUFFER]
        assert float((window[1:] - window[:-1]).abs().eq(1).double().mean()) < 0.01  # neighbours do not stay together
        assert len(numbers[window].unique()) <= -(-BUFFER // each) + 1
    assert len(firsts) == 3


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_processes_share_every_batch_exactly_and_any_step_can_be_the_first(shards, world, on_disk, monkeypatch):
    whole = dataset(f"shards:{shards}")
    if on_disk:
        monkeypatch.setattr(module, "MEMORY_BUDGET", 100)
    data = dataset(f"shards:{shards}")
    assert data.train.in_memory is not on_disk
    one = PairLoader(whole.train, views_for(whole), 8, seed=3)
    assert len(one) == 5
    for step in (7, 0, 4, 12):  # in any order, by a loader that saw nothing before
        expected_batch = one.at(step)
        parts = [PairLoader(data.train, views_for(whole), 8, seed=3).at(step, rank, world) for rank in range(world)]
        for field in range(3):
            assert torch.equal(torch.cat([part[field] for part in parts]), expected_batch[field])
    epoch = torch.cat([one.ids(step) for step in range(5, 10)])
    assert torch.equal(epoch.sort().values, torch.arange(40))


def test_fewer_shards_than_processes_are_said(shards, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (
        "5 shards are fewer than 8 processes: each process reads its samples of them."
        in dataset(f"shards:{shards}").notes
    )


def test_labels_by_cls_json_or_choice(tmp_path):
    def label(i):
        return {"json": {"label": NAMES[i % 3], "fine": i % 5, "box": [1, 2]}, "txt": "a word"}

    write(tmp_path / "a.tar", 0, label=label)
    place = f"shards:{tmp_path}/a.tar"
    assert dataset(place).classes == NAMES and "json.label (3 classes)" in dataset(place).notes[0]
    assert dataset(f"{place}?label=json.fine").classes == ["0", "1", "2", "3", "4"]
    assert dataset(f"{place}?label=txt").classes == ["a word"]
    assert dataset(f"{place}?label=").train.labels is None
    for choice, words in (
        ("label=json.none", "no column 'json.none'"),
        ("label=json.box", "cannot be labels"),
        ("picture=png", "chooses 'picture'"),
        ("image=jpg", "no column 'jpg' to be its image"),
    ):
        with pytest.raises(UserError, match=words):
            dataset(f"{place}?{choice}")


def test_several_fields_of_images_need_a_choice_and_kinds_of_one_do_not(tmp_path):
    write(tmp_path / "a.tar", 0, label=lambda i: {"mask.png": png(pixels(7, 10)[i])})
    with pytest.raises(UserError, match=r"several columns of images, mask.png, png: say which with .*\?image=mask.png"):
        dataset(f"shards:{tmp_path}/a.tar")
    data = dataset(f"shards:{tmp_path}/a.tar?image=mask.png")
    assert sorted(rows(data.train) + rows(data.test)) == sorted(expected(7))
    write(tmp_path / "b.tar", 1, image="bmp")
    write(tmp_path / "c.tar", 2)
    data = dataset(f"shards:{tmp_path}/{{b,c}}.tar")
    assert sorted(rows(data.train) + rows(data.test)) == sorted(expected(1, 2))
    assert "The images are field bmp or png" in data.notes[0]


def test_labels_for_images_that_are_not_there_are_left_out_and_missing_labels_refused(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        for i, picture in enumerate(pixels(0, 10)):
            tar.write({"__key__": f"{i}", "cls": i % 2, **({} if i == 4 else {"png": png(picture)})})
    data = dataset(f"shards:{tmp_path}/a.tar")
    assert len(data.train) + len(data.test) == 9
    assert "1 of 10 samples have no png and are left out, the first is a.tar/4." in data.notes
    write(tmp_path / "b.tar", 0, label=lambda i: {} if i == 3 else {"cls": 1})
    with pytest.raises(
        UserError, match=r"1 of 10 samples of .* have no label in field cls, the first of them b.tar/s0-003"
    ):
        dataset(f"shards:{tmp_path}/b.tar")


@pytest.mark.parametrize("keep", ["half", "last member", "end mark", "nothing", "one byte"])
def test_a_cut_shard_is_named(shards, keep):
    place = shards / "train-002.tar"
    whole = place.read_bytes()
    with tarfile.open(place) as tar:
        last = tar.getmembers()[-1]
    ends = {"half": len(whole) // 2, "last member": last.offset_data + 1, "end mark": last.offset_data + 512,
            "nothing": 0, "one byte": 1}  # fmt: skip
    place.write_bytes(whole[: ends[keep]])
    with pytest.raises(UserError, match=r"The shard \S+train-002.tar is (cut or damaged|empty)") as caught:
        dataset(f"shards:{shards}")
    assert "\n" not in str(caught.value)


def test_a_shard_with_damage_inside_is_named(shards):
    place = shards / "train-001.tar"
    whole = bytearray(place.read_bytes())
    with tarfile.open(place) as tar:
        member = tar.getmembers()[6]
    whole[member.offset : member.offset + 512] = b"x" * 512
    place.write_bytes(whole)
    with pytest.raises(UserError, match=r"train-001.tar is cut or damaged"):
        dataset(f"shards:{shards}")


def test_a_shard_that_changes_while_it_is_read_is_named(shards, monkeypatch):
    monkeypatch.setattr(module, "MEMORY_BUDGET", 100)
    data = dataset(f"shards:{shards}")
    (shards / "train-000.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"train-000.tar has become shorter"):
        data.train.batch([0])


def test_what_cannot_be_read_is_named(shards, tmp_path):
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "bare.tar", "w"):
        pass
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(shards / "train-000.tar", "x.png")
    (tmp_path / "text.tar").write_text("no tar at all\n" * 100)
    with webdataset.TarWriter(str(tmp_path / "broken.tar")) as tar:
        tar.write({"__key__": "a", "png": b"no image", "cls": 0})
        tar.write({"__key__": "b", "png": b"no image", "cls": 0})
    write(tmp_path / "words.tar", 0, label=lambda i: {"json": b"{"})
    for text, words in (
        ("", "shards:PATTERN names tar files"),
        (f"{shards}/train-{{000..004}}.tar", r"1 of 5 shards of .* are not there, for instance \S+train-004.tar"),
        (f"{shards}/none*.tar", "1 of 1 shards"),
        (f"{tmp_path}/empty", "holds no tar files"),
        (f"{tmp_path}/bare.tar", "is empty: 1 shards hold no sample"),
        (f"{tmp_path}/packed.tar", "compressed by gzip.*unpack it"),
        (f"{tmp_path}/text.tar", "text.tar is cut or damaged"),
        (f"{tmp_path}/broken.tar", r"The image \S+broken.tar/a.png cannot be read"),
        (f"{tmp_path}/words.tar", r"words.tar/s0-000.json is no JSON"),
        ("https://example.org/a.tar", "is not on this machine"),
        (f"{shards}/test-000.tar::{shards}/test-000.tar", "twice"),
        (f"{shards}/{{train-000,test-000,../{tmp_path.name}/bare}}.tar", "are called neither train nor test, as is"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            dataset(f"shards:{text}")
        assert "\n" not in str(caught.value)


def test_braces_without_the_package_say_what_to_install(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "braceexpand", None)
    with pytest.raises(UserError, match=r'pip install "infomax\[shards\]"'):
        dataset(f"shards:{shards}/train-{{000..003}}.tar")
    assert len(dataset(f"shards:{shards}").train) == 40  # a folder needs no package


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_from_any_step(shards, run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MEMORY_BUDGET", 100)
    short = ("simclr_smile", "--dataset", f"shards:{shards}", "--steps", 7, "--save-every", 1, "--keep", 9,
             "--batch-size", 8, "--encoder", "resnet10_small_gn")  # fmt: skip
    ended = run(*short, "--run-dir", "whole")
    assert ended.status == 0, ended.err
    whole = checkpoints.read(tmp_path / "whole").tensors("model.safetensors")
    for step in (2, 5, 6):  # 5 is the last of the first epoch
        place = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "whole", place)
        for later in range(step + 1, 8):
            shutil.rmtree(place / f"step-{later:08}")
        (place / "run.json").unlink()
        ended = run(*short, "--run-dir", place, "--resume")
        assert ended.status == 0, ended.err
        resumed = checkpoints.read(place).tensors("model.safetensors")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
