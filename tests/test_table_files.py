"""Tables in files that each library itself wrote, and `infomax estimate TABLE --x a,b --y c`."""

import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import scipy.io
import zarr
from cells import write_cells
from polars.testing import assert_frame_equal

import infomax as im
from infomax.estimation.pairs.tables import ENDINGS, read_table

N = 200
RNG = np.random.default_rng(0)
A = RNG.normal(size=(N, 2))
B = A[:, 0] + RNG.normal(size=N)
SEX = np.where(A[:, 1] > 0, "f", "m")
FRAME = pd.DataFrame({"age": A[:, 0], "height": A[:, 1], "weight": B, "sex": SEX, "visits": RNG.integers(0, 5, N)})
ARRAYS = {"body": A, "weight": B, "sex": SEX.astype("S1"), "image": np.zeros((N, 2, 2))}


def write_h5(path):
    with h5py.File(path, "w") as file:
        for name, array in ARRAYS.items():
            file[f"first/{name}"] = array
        file["first/texts"] = SEX.tolist()
        file["first/records"] = np.array(list(zip(A[:, 0], B, strict=True)), [("age", "f4"), ("weight", ">f8")])
        file["short"] = np.arange(3.0)


def write_zarr(path, version):
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for name, array in ARRAYS.items():
        if array.dtype.kind == "f":
            group.create_array(f"first/{name}", data=array)


RECORDS = np.zeros(
    N, [("age", "f4"), ("weight", ">f8"), ("sex", "S1"), ("note", "S40000"), ("body", "f8", (2,))]
)  # fmt: skip
for field, values in (("age", A[:, 0]), ("weight", B), ("body", A), ("sex", SEX.astype("S1"))):
    RECORDS[field] = values


SINGLE = ["age", "weight", "sex", "note"]  # Zarr writes no fields of several columns,
NATIVE = [(name, RECORDS.dtype[name].newbyteorder("=")) for name in SINGLE]  # and loses an order of bytes


def write_h5_records(path):
    with h5py.File(path, "w") as file:
        file["first/records"] = RECORDS
        texts = np.array(list(zip(SEX.tolist(), B, strict=True)), [("sex", h5py.string_dtype()), ("weight", "f8")])
        file["texts"] = texts


def write_zarr_records(path, version):
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.create_array("first/records", data=RECORDS[SINGLE].astype(NATIVE), chunks=(N // 20,))


RECORD_FILES = {
    "t.h5": write_h5_records, "t.npy": lambda path: np.save(path, RECORDS),
    "2.zarr": lambda path: write_zarr_records(path, 2), "3.zarr": lambda path: write_zarr_records(path, 3),
}  # fmt: skip


def write_records(path):
    np.save(path, np.array(list(zip(A[:, 0], B, strict=True)), [("age", "f8"), ("weight", ">f8")]))


BODY = ["body.0", "body.1"]
# By whom a file was written: its name, the writer, columns of x, their names, columns of y.
FILES = {
    "pandas csv": ("t.csv", lambda p: FRAME.to_csv(p, index=False), ["age", "height"], ["age", "height"], "weight"),
    "polars csv": ("t.csv", lambda p: pl.DataFrame(FRAME).write_csv(p), ["age", "height"], ["age", "height"], "weight"),
    "tsv": ("t.tsv", lambda p: FRAME.to_csv(p, sep="\t"), ["age", "height"], ["age", "height"], "weight"),
    "pandas parquet": ("t.parquet", FRAME.to_parquet, ["age", "height"], ["age", "height"], "weight"),
    "polars parquet": ("t.parquet", pl.DataFrame(FRAME).write_parquet, ["age"], ["age"], "weight"),
    "pyarrow parquet": ("t.parquet", lambda p: pa.parquet.write_table(pa.Table.from_pandas(FRAME), p), ["age"], ["age"],
                        "weight"),
    "pandas feather": ("t.feather", FRAME.to_feather, ["age", "height"], ["age", "height"], "weight"),
    "pyarrow feather": ("t.feather", lambda p: pa.feather.write_feather(FRAME, p, compression="zstd"), ["age"], ["age"],
                        "weight"),
    "npy": ("t.npy", lambda p: np.save(p, np.c_[A, B]), ["0", "1"], ["0", "1"], "2"),
    "records": ("t.npy", write_records, ["age"], ["age"], "weight"),
    "npz": ("t.npz", lambda p: np.savez(p, **ARRAYS), ["body"], BODY, "weight"),
    "npz column": ("t.npz", lambda p: np.savez_compressed(p, **ARRAYS), ["body.1", "body.0"], BODY[::-1], "weight"),
    "mat": ("t.mat", lambda p: scipy.io.savemat(p, ARRAYS), ["body"], BODY, "weight"),
    "mat 4": ("t.mat", lambda p: scipy.io.savemat(p, {"body": A, "weight": B}, format="4"), ["body"], BODY, "weight"),
    "h5": ("t.h5", write_h5, ["first/body"], ["first/body.0", "first/body.1"], "first/weight"),
    "h5 records": ("t.hdf5", write_h5, ["first/records.age"], ["first/records.age"], "first/records.weight"),
    "h5ad": ("t.h5ad", lambda p: write_cells(p, {"weight": B}, ["age", "height"], A), ["age", "height"],
             ["age", "height"], "weight"),
    "zarr 2": ("t.zarr", lambda p: write_zarr(p, 2), ["first/body"], ["first/body.0", "first/body.1"], "first/weight"),
    "zarr 3": ("t.zarr", lambda p: write_zarr(p, 3), ["first/body.0"], ["first/body.0"], "first/weight"),
    "zarr array": ("t.zarr", lambda p: zarr.save_array(p, np.c_[A, B]), ["0", "1"], ["0", "1"], "2"),
}  # fmt: skip


def test_every_ending_has_a_file_that_its_library_wrote():
    assert {"." + name.partition(".")[2] for name, *_ in FILES.values()} == set(ENDINGS)


@pytest.mark.filterwarnings("ignore:.*zarr:UserWarning")
@pytest.mark.parametrize("kind", FILES)
def test_columns_are_read_by_name(kind, tmp_path):
    name, write, x, names, y = FILES[kind]
    write(tmp_path / name)
    table = read_table(tmp_path / name, [*x, y])
    assert table.columns == [*names, y]
    want = A[:, [1, 0]] if x == ["body.1", "body.0"] else A[:, : len(names)]
    single = kind == "h5 records"
    assert np.array_equal(table.select(names).to_numpy(), want.astype(np.float32) if single else want)
    assert np.array_equal(table[y].to_numpy(), B)
    found = im.estimate(table.select(names), table[y], "GCMI")
    assert found.names == {"x": names, "y": [y]}
    if not single:
        assert found.mi == im.estimate(want, B, "GCMI").mi
    with pytest.raises(im.UserError, match="has no column 'wieght'"):
        read_table(tmp_path / name, ["wieght"])


@pytest.mark.parametrize(("kind", "name"), [("pandas csv", "sex"), ("pandas parquet", "sex"), ("pandas feather", "sex"),
                                            ("npz", "sex"), ("mat", "sex"), ("h5", "first/sex"),
                                            ("h5", "first/texts")])  # fmt: skip
def test_texts_stay_texts(kind, name, tmp_path):
    file, write, *_ = FILES[kind]
    write(tmp_path / file)
    assert read_table(tmp_path / file, [name])[name].to_list() == SEX.tolist()


def test_all_columns_are_read_where_none_is_named(tmp_path):
    FRAME.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").columns == list(FRAME)
    np.savez(tmp_path / "t.npz", **ARRAYS)
    assert read_table(tmp_path / "t.npz").columns == [*BODY, "weight", "sex"]
    write_h5(tmp_path / "t.h5")
    with pytest.raises(im.UserError, match=r"different lengths .*name columns of one length"):
        read_table(tmp_path / "t.h5")


def test_only_the_chosen_columns_are_read(tmp_path):
    """Of a table of 80 MB, one column of 80 kB: in less memory than the others would take."""
    wide = pl.DataFrame({f"c{i}": RNG.normal(size=10_000) for i in range(1000)})
    wide.write_parquet(tmp_path / "t.parquet", compression="uncompressed")
    wide.write_ipc(tmp_path / "t.feather")
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["c"] = wide.to_numpy()
    zarr.create_array(tmp_path / "t.zarr", data=wide.to_numpy(), chunks=(10_000, 10))
    code = f"""
import resource
import numpy, polars, h5py, zarr
from pathlib import Path
from infomax.estimation.pairs.tables import read_table
folder = Path({str(tmp_path)!r})
read_table(folder / "t.h5", ["c.0"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, column in (("t.parquet", "c7"), ("t.feather", "c7"), ("t.h5", "c.7"), ("t.zarr", "7")):
    assert read_table(folder / name, [column]).shape == (10_000, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert peak < 40_000, (name, peak)  # kB
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:.*:zarr.core.dtype.common.UnstableSpecificationWarning")
@pytest.mark.parametrize("file", RECORD_FILES)
def test_only_the_chosen_fields_of_records_are_read(file, tmp_path):
    RECORD_FILES[file](tmp_path / file)
    of = "" if file == "t.npy" else "first/records."
    names = {f"{of}age": RECORDS["age"], f"{of}weight": B, f"{of}sex": SEX}
    names |= {} if file.endswith("zarr") else {f"{of}body.1": A[:, 1]}  # which has no fields of several columns
    read_table(tmp_path / file, [*names])  # libraries are loaded
    tracemalloc.start()
    try:
        table = read_table(tmp_path / file, [*names])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < RECORDS["note"].nbytes / 4
    assert all(table[name].to_list() == values.tolist() for name, values in names.items())
    if not file.endswith("zarr"):
        assert read_table(tmp_path / file, [f"{of}body"]).to_numpy().tolist() == A.tolist()
    if file == "t.h5":
        assert read_table(tmp_path / file, ["texts.sex"])["texts.sex"].to_list() == SEX.tolist()


NASTY = {
    "whole": ["1", "NA", "-3", "4"], "few": ["1", "2.5", "nan", ""], "yes": ["true", "", "False", "true"],
    "quoted": ['"1"', '"2"', '"3"', '"4"'], "texts": ['"a, b"', '"say ""NA"""', '""', "x\u00e4"],
    "none": ["", "", "", "NA"], "spaced": [" 1", "2 ", "3", "4"],
    "dates": ["2020-01-01", "2020-01-02", "NA", "2020-01-04"], "late": ["1", "2", "3", "a"],
    "large": ["9007199254740993", "1", "2", "3"], "power": ["1e300", "2", "-inf", "0"],
}  # fmt: skip


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("header", [True, False])
def test_a_text_column_by_itself_has_the_type_that_it_has_in_the_table(ending, header, tmp_path):
    nasty = {name: column for name, column in NASTY.items() if header or name in ("whole", "few", "large", "power")}
    lines = [list(nasty)] if header else [["1", "2.5", "3", "4"]]  # columns are then called 0, 1, ...
    lines += [list(line) for line in zip(*nasty.values(), strict=True)]
    file = tmp_path / f"t{ending}"
    file.write_text(
        "\n".join(("," if ending == ".csv" else "\t").join(line) for line in lines) + "\n", encoding="utf-8"
    )
    whole = read_table(file)
    assert len(whole) == 4 + (not header) and whole.columns == (list(nasty) if header else ["0", "1", "2", "3"])
    for name in whole.columns:
        assert_frame_equal(read_table(file, [name]), whole.select(name))
    some = whole.columns[2::-1]
    assert_frame_equal(read_table(file, some), whole.select(some))


def test_types_of_text_columns_that_are_not_chosen_are_not_sought(tmp_path):
    """That takes longer than to read one column: processor time, of which other processes take none."""
    wide = pl.DataFrame({f"c{i}": RNG.normal(size=5000) for i in range(200)})
    wide.write_csv(tmp_path / "t.csv")

    def shortest(call: Callable[[], Any]) -> float:
        times = []
        for _ in range(4):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        return min(times)

    types = shortest(lambda: pl.scan_csv(tmp_path / "t.csv", infer_schema_length=None).collect_schema())
    assert shortest(lambda: read_table(tmp_path / "t.csv", ["c7"])) < types


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    frame = FRAME.assign(flat=1.0, empty=None, marked=[*B[:-1].astype(str), "broken"])
    frame["gaps"], frame["a,b"] = np.where(np.arange(N) < 7, np.nan, B), B
    frame.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.txt").write_text("")
    (tmp_path / "bad.parquet").write_text("no parquet")
    (tmp_path / "bad.h5").write_text("no hdf5")
    (tmp_path / "bad.mat").write_text("no mat")
    np.save(tmp_path / "x.npy", A)
    return tmp_path


def test_the_command_estimates_columns_of_a_table(run, table):
    done = run("infomax", "estimate", "t.csv", "--x", "age, height", "--y", "weight", "--method", "GCMI", "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["mi"] == im.estimate(A, B, "GCMI").mi
    assert found["protocol"]["names"] == {"x": ["age", "height"], "y": ["weight"]}
    done = run(
        "infomax", "estimate", "t.csv", "--x", "age", "--y", '"a,b"', "--method", "GCMI", "--report", "page.html"
    )
    assert done.status == 0 and "age and" in (table / "page.html").read_text()
    done = run("infomax", "estimate", "t.csv", "--x", "age", "--y", "gaps", "--method", "GCMI", "--missing", "drop")
    assert done.status == 0 and "7 of 200 pairs were left out" in done.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("t.csv --x age --y wieght", "no column 'wieght'. Did you mean 'weight'"),
        ("t.csv --x age", "name the columns of both sides"),
        ("t.csv", "is one side of the pairs: .*--x NAME,NAME --y NAME"),
        ("t.csv --x age, --y weight", "--x names no column"),
        ("t.csv --x age,weight --y weight", "'weight' is in --x and in --y"),
        ("t.csv --x age --y marked", "texts that are numbers, but for 'broken'"),
        ("t.csv --x name --y age", "no column 'name'"),
        ("t.csv --x flat --y age", "'flat'. is the same in every row"),
        ("t.csv --x age --y empty", "missing in 200 of 200 rows .200 in 'empty' of y"),
        ("t.csv --x age --y empty --missing drop", "Only 0 of 200 rows"),
        ("t.csv --x age --y gaps", "7 in 'gaps' of y"),
        ("t.csv --x age --y gaps --missing fill", "missing is 'fill'"),
        ("nowhere.csv --x a --y b", "nowhere.csv does not exist"),
        ("t.txt --x a --y b", r"ends in '.txt', and tables end in .csv"),
        ("bad.parquet --x a --y b", r"bad.parquet cannot be read as .parquet"),
        ("bad.h5 --x a --y b", r"bad.h5 cannot be read as .h5"),
        ("bad.mat --x a --y b", r"bad.mat cannot be read as .mat"),
        ("x.npy x.npy --x 0 --y 1", "are two files"),
        ("x.npy --x 0 --y 2", "no column '2'"),
        ("runs --missing drop", "--missing goes with"),
    ],
)
def test_mistakes_are_sentences(run, table, words, sentence):
    done = run("infomax", "estimate", *words.split(), "--method", "GCMI")
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    with pytest.raises(im.UserError, match=sentence):
        raise im.UserError(done.err)


@pytest.mark.parametrize(("file", "package"), [("t.csv", "polars"), ("t.h5", "h5py"), ("t.zarr", "zarr")])
def test_a_missing_library_is_named_with_its_extra(file, package, run, table, monkeypatch):
    (table / file).touch()
    monkeypatch.setitem(sys.modules, package, None)
    done = run("infomax", "estimate", file, "--x", "a", "--y", "b")
    assert (done.status, done.err) == (2, f'{package} is needed and missing: pip install "infomax[tables]".\n')


def test_a_matlab_file_of_version_7_3_is_told_what_to_do(table):
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (table / "new.mat").write_bytes(header + b"\x00" * 512)
    with pytest.raises(im.UserError, match=r"version 7.3: save it with"):
        read_table(table / "new.mat", ["a"])


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_text_without_names_loses_no_row(ending, tmp_path):
    array = np.random.default_rng(0).normal(size=(30, 3)).round(1)
    array[0] = 1.5  # names that are one number three times
    np.savetxt(tmp_path / f"t{ending}", array, delimiter="," if ending == ".csv" else "\t")
    found = read_table(tmp_path / f"t{ending}")
    assert found.columns == ["0", "1", "2"]
    np.testing.assert_allclose(found.to_numpy(), array)
    assert read_table(tmp_path / f"t{ending}", ["2", "0"]).columns == ["2", "0"]
