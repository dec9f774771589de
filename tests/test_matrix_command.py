"""infomax matrix: tables in, a CSV file, a heat map and a list out; mistakes are a sentence; and its benchmarks run."""

import csv
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from cells import Labels, write_cells

from infomax import cli
from infomax.benchmarks import pairwise as all_pairs
from infomax.benchmarks import select as selection
from infomax.errors import UserError
from infomax.estimation.pairs.tables import read_table
from infomax.estimation.questions.pairwise import pairwise
from infomax.ui.matrix import columns_in


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run(*words) -> (status, standard output, standard error) of infomax in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["infomax", *map(str, words)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return call


def table(n: int = 60):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 3))
    x[:, 2] = x[:, 0] + 0.3 * rng.standard_normal(n)
    return x


def test_a_csv_file_with_names_and_texts(run, tmp_path):
    x = table()
    lines = [f"{a},{b},{c},{'yes' if a > 0 else 'no'}" for a, b, c in x]
    (tmp_path / "t.csv").write_text("one,two,three,sign\n" + "\n".join(lines) + "\n")
    status, out, err = run("matrix", "t.csv", "--top", 2)
    assert (status, err) == (0, "") and len(out.splitlines()) == 4
    assert "6 pairs of columns [4 x 4], 60 rows" in out and "q " in out
    rows = list(csv.DictReader((tmp_path / "t-mi.csv").read_text().splitlines()))
    assert len(rows) == 6 and {rows[0]["x"], rows[0]["y"]} == {"one", "three"}
    assert (tmp_path / "t-mi.png").read_bytes().startswith(b"\x89PNG")


def test_two_tables_as_json(run, tmp_path):
    x = table()
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "y.npz", kind=(x[:, 0] > 0).astype(int), pair=x[:, 1:])
    status, out, err = run("matrix", "x.npy", "y.npz", "--output", "both", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "") and found["shape"] == [3, 3] and found["n"] == 60
    assert {pair["y"] for pair in found["strongest"]} == {"kind", "pair.0", "pair.1"}
    assert (tmp_path / "both.csv").exists() and (tmp_path / "both.png").exists()


def test_a_csv_file_without_names(run, tmp_path):
    np.savetxt(tmp_path / "t.csv", table(), delimiter=",")
    assert "3 pairs of columns [3 x 3], 60 rows" in run("matrix", "t.csv")[1]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.csv", "a,b\n1,2\n3\n", "misses 1 values in column b"),
        ("t.csv", "a,b\n" + "1,\n" * 30, "misses 30 values in column b"),
        ("t.csv", "a,b\n" + "".join(f"{k},t{k}\n" for k in range(40)), "40 different texts in column b"),
        ("t.csv", "a,b\n" + "1,nan\n" * 30, "misses 30 values in column b"),
        ("t.csv", "", "cannot be read as .csv (empty CSV)"),
        ("t.csv", "a\n" + "1\n" * 30, "one column"),
        ("t.csv", "a,b\n1,2\n", "1 rows, and 20 are needed"),
        ("t.csv", "a,b\n1,2\n3,4,5\n", "found more fields"),
        ("t.npy", "no array", "cannot be read as .np"),
        ("t.npz", "no archive", "cannot be read as .np"),
        ("t.xls", "", "tables end in .csv"),
        ("other.csv", "", "does not exist"),
    ],
)
def test_mistakes_are_a_sentence(run, tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    status, out, err = run("matrix", "t" + name[name.index(".") :] if name != "other.csv" else "t.csv")
    assert (status, out) == (2, "") and sentence in err and err.count("\n") == 1


def test_nan_in_an_array_is_told(run, tmp_path):
    x = table(30)
    x[3, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    assert "NaN or infinity in 1 of 30 rows" in run("matrix", "x.npy")[2]


def test_tables_of_different_lengths_and_a_folder_to_write_into(run, tmp_path):
    np.save(tmp_path / "x.npy", table(60))
    np.save(tmp_path / "y.npy", table(50))
    assert run("matrix", "x.npy", "y.npy")[::2] == (
        2, "X has 60 rows and Y has 50: row i of both is one observation, so give as many.\n"
    )  # fmt: skip
    assert "is a folder" in run("matrix", "x.npy", "--output", ".")[2]


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("nowhere/p.csv", "--output nowhere/p.csv: nowhere is no folder; make it first"),
        ("nowhere/p", "--output nowhere/p: nowhere is no folder"),
        ("x.npy/p", "x.npy is no folder"),
        ("p.xlsx", "ends in .xlsx, and pairs are written as .csv or .parquet, .*: name it p.csv or p.parquet"),
        ("p.png", "ends in .png, and pairs"),
        ("table", "table.csv, which is to be written, is a folder"),
        ("picture.parquet", "picture.png, which is to be written, is a folder"),
    ],
)
def test_where_nothing_can_be_written_is_said_before_anything_is_read(run, tmp_path, output, sentence):
    """Of tables that are not even there."""
    (tmp_path / "x.npy").write_text("no array")
    (tmp_path / "table.csv").mkdir()
    (tmp_path / "picture.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run("matrix", "missing.npy", "--output", output)
    assert (status, out) == (2, "") and re.search(sentence, err), err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dot_in_a_name_is_no_ending(run, tmp_path):
    np.save(tmp_path / "x.npy", table())
    assert run("matrix", "x.npy", "--output", "alpha0.5")[0] == 0
    assert {"alpha0.5.csv", "alpha0.5.png"} <= {file.name for file in tmp_path.iterdir()}


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.parametrize(("output", "full"), [("p.csv", "p.csv"), ("p.csv", "p.png")])
def test_a_full_disk_is_told_with_the_file_that_is_not_there(run, tmp_path, output, full):
    np.save(tmp_path / "x.npy", table())
    (tmp_path / f".tmp-{full}-{os.getpid()}").symlink_to("/dev/full")
    status, _, err = run("matrix", "x.npy", "--output", output)
    assert status == 2 and f"{full} could not be written (No space left on device); name another" in err, err
    assert ".tmp" not in err


def test_a_benchmark_without_a_part_of_this_name_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"no part 'memry'\. Did you mean 'memory'"):
        all_pairs.command(parts=("memry",), output=tmp_path / "pairs")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_benchmarks_run(tmp_path, capsys):
    all_pairs.command(rows=(100,), quick=True, output=tmp_path / "pairs", json=True)
    found = json.loads(capsys.readouterr().out)["tables"]
    assert found["mean error, nats"][0]["N"] == 100 and len(found["large tables"]) == 2
    [memory] = found["memory"]
    assert float(memory["peak, MiB"]) > float(memory["table, MiB"]) > float(memory["values, MiB"]) > 0
    assert len(found["each distribution"]) == len(all_pairs.known())
    selection.command(quick=True, output=tmp_path / "select", json=True)
    found = json.loads(capsys.readouterr().out)["tables"]["score"]
    xor = next(line for line in found if line["data"] == "planted XOR")
    assert float(xor["jmi"].split()[0]) > 0.8 > float(xor["mim"].split()[0])


@pytest.mark.parametrize("ending", [".parquet", ".feather", ".tsv"])
def test_other_tables_are_read_as_the_same_columns(ending, tmp_path):
    import polars

    rng = np.random.default_rng(0)
    a = rng.normal(size=60)
    frame = polars.DataFrame({"a": a, "text": np.where(a > 0, "up", "down"), "count": rng.integers(0, 3, 60)})
    frame.write_csv(tmp_path / "t.csv")
    path = tmp_path / f"t{ending}"
    if ending == ".tsv":
        frame.write_csv(path, separator="\t")
    else:
        frame.write_parquet(path) if ending == ".parquet" else frame.write_ipc(path)
    values, names, _ = columns_in(path, read_table(path))
    expected, same, labels = columns_in(tmp_path / "t.csv", read_table(tmp_path / "t.csv"))
    assert not labels
    assert names == same == ("a", "text", "count")
    np.testing.assert_allclose(values, expected)


def test_empty_cells_of_a_frame_are_told(tmp_path):
    import polars

    polars.DataFrame({"a": [1.0, None, 3.0], "b": [1.0, 2.0, 3.0]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="misses 1 values in column a"):
        columns_in(tmp_path / "t.parquet", read_table(tmp_path / "t.parquet"))


# Two sides by name ----------------------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path):
    x = table(120)
    lines = [f"{a},{b},{c},k{int(3 * a) % 9}" for a, b, c in x]
    (tmp_path / "t.csv").write_text('age,"a,b",size,kind\n' + "\n".join(lines) + "\n")
    return x


def test_columns_by_name_on_two_sides(run, people, tmp_path):
    status, out, err = run("matrix", "t.csv", "--x", 'age,"a,b"', "--y", "size", "--json")
    found = json.loads(out)
    assert (status, err, found["shape"]) == (0, "", [2, 1])
    assert [pair["x"] for pair in found["strongest"]] == ["age", "a,b"] and found["strongest"][0]["y"] == "size"
    assert found["strongest"][0]["mi"] == pytest.approx(pairwise(people[:, :2], people[:, 2]).mi[0, 0])
    every = json.loads(run("matrix", "t.csv", "--json")[1])["shape"]
    assert (every, json.loads(run("matrix", "t.csv", "--x", "age,size", "--json")[1])["shape"]) == ([4, 4], [2, 2])
    np.save(tmp_path / "y.npy", people[:, ::-1])
    found = json.loads(run("matrix", "t.csv", "y.npy", "--x", "age", "--y", "0,2", "--json")[1])
    assert {(pair["x"], pair["y"]) for pair in found["strongest"]} == {("age", "0"), ("age", "2")}


def test_all_other_columns_with_a_class(run, people):
    """Nine classes in 120 rows are few rows a class; they are names all the same, not their places in the alphabet."""
    found = json.loads(run("matrix", "t.csv", "--y", "kind", "--json")[1])
    assert found["shape"] == [3, 1] and found["strongest"][0]["x"] == "age"
    shuffled = {f"k{k}": f"c{(5 * k) % 9}" for k in range(9)}
    text = Path("t.csv").read_text()
    for old, new in shuffled.items():
        text = text.replace(old, new)
    Path("t.csv").write_text(text)
    again = json.loads(run("matrix", "t.csv", "--y", "kind", "--json")[1])
    assert again["strongest"][0]["mi"] == pytest.approx(found["strongest"][0]["mi"], abs=1e-6)


def test_every_format_of_tables_on_two_sides(run, tmp_path):
    x = table(80)
    kind = ["yes" if each > 0 else "no" for each in x[:, 0]]
    write_cells(tmp_path / "t.h5ad", {"kind": Labels(kind, ["no", "yes"])}, ["A", "B", "C"], x, matrix="csc")
    status, out, err = run("matrix", "t.h5ad", "--x", "A,B,C", "--y", "kind")
    assert (status, err) == (0, "") and "[3 x 1], 80 rows" in out, out
    assert next(csv.DictReader(Path("t-mi.csv").read_text().splitlines()))["x"] == "A"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--x age,size --y size", "'size' is in --x and in --y"),
        ("--x agee", "no column 'agee'. Did you mean 'age'"),
        ("--y sise", "no column 'sise'. Did you mean 'size'"),
        ("--x age", "one column of t.csv"),
        ("--x , --y age", "--x names no column"),
        ("--y age,size,kind,a", "no column 'a'"),
    ],
)
def test_mistakes_about_sides_are_a_sentence(run, people, words, sentence):
    status, out, err = run("matrix", "t.csv", *words.split())
    assert (status, out) == (2, "") and sentence in err and err.count("\n") == 1, err
