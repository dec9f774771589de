"""AnnData's files as tables: every form on disk gives the same columns, and mistakes are sentences."""

import json
import subprocess
import sys

import h5py
import numpy as np
import polars as pl
import pytest
from cells import FORMS, MATRICES, Labels, write_cells

import infomax as im
from infomax.estimation import Budget
from infomax.estimation.pairs import cells
from infomax.estimation.pairs.tables import read_table

N, P = 120, 30
RNG = np.random.default_rng(0)
GENES = [f"G{k}" for k in range(P - 1)] + ["n_counts"]
X = RNG.poisson(0.4, (N, P)).astype(np.float32)
ALL, FULL = [f"R{k}" for k in range(P + 5)], RNG.poisson(0.2, (N, P + 5)).astype(np.float32)
SPLICED = 2 * X
KIND = ["b" if each else "t" for each in RNG.random(N) < 0.4]
CLUSTER = [None if k == 3 else str(each) for k, each in enumerate(RNG.integers(0, 4, N))]
PCA = RNG.normal(size=(N, 4)).astype(np.float32)
COUNTS = X.sum(1)
OBS = {"type": Labels(KIND, ["t", "b"]), "louvain": Labels(CLUSTER, list("0123")), "n_counts": COUNTS, "donor": KIND}
NULLS = {
    "age": np.ma.MaskedArray(np.arange(N), np.arange(N) % 7 == 0),
    "smokes": np.ma.MaskedArray(np.arange(N) % 2 == 0, np.arange(N) % 5 == 0),
    "whole": np.arange(N, dtype=np.uint16),
    "half": np.arange(N).astype(np.float16),
    "yes": np.arange(N) % 3 == 0,
}


def write(path, form="now", matrix="dense", **more):
    kept = {"obsm": {"X_pca": PCA, "X_umap": PCA[:, :2].astype(np.float64)}, "raw": (ALL, FULL)} | more
    layers = {} if form == "0.6" else {"spliced": SPLICED}
    write_cells(path, OBS | ({} if form == "0.6" else NULLS), GENES, X, form, matrix, layers=layers, **kept)
    return path


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_columns(form, matrix, tmp_path):
    path = write(tmp_path / "t.h5ad", form, matrix)
    names = [
        "G7",
        "type",
        "X/G3",
        "raw/R33",
        "louvain",
        "X_pca.1",
        "obsm/X_umap.0",
        "obs/n_counts",
        "X/n_counts",
        "donor",
    ]
    table = read_table(path, names)
    assert table.columns == names
    for name, values in {
        "G7": X[:, 7], "X/G3": X[:, 3], "raw/R33": FULL[:, 33], "X_pca.1": PCA[:, 1], "obsm/X_umap.0": PCA[:, 0],
        "obs/n_counts": COUNTS, "X/n_counts": X[:, -1],
    }.items():  # fmt: skip
        assert np.array_equal(table[name].to_numpy(), values), name
    assert table["type"].to_list() == KIND == table["donor"].to_list() and table["louvain"].to_list() == CLUSTER
    assert table["louvain"].dtype == pl.Enum(list("0123"))
    assert read_table(path, ["X_umap"]).columns == ["X_umap.0", "X_umap.1"]
    if form != "0.6":
        assert np.array_equal(read_table(path, ["layers/spliced/G9"]).to_numpy()[:, 0], SPLICED[:, 9])


@pytest.mark.parametrize("form", ["now", "0.7"])
def test_numbers_and_missing_values_of_obs(form, tmp_path):
    table = read_table(write(tmp_path / "t.h5ad", form), list(NULLS))
    for name, values in NULLS.items():
        gone = np.ma.getmaskarray(values)
        assert table[name].is_null().to_list() == gone.tolist(), name
        assert np.array_equal(table[name].to_numpy()[~gone], np.asarray(values)[~gone]), name


def test_without_names_there_are_obs_and_genes(tmp_path):
    table = read_table(write(tmp_path / "t.h5ad"))
    assert table.shape == (N, len(OBS) + len(NULLS) + P)
    assert {"type", "obs/n_counts", "X/n_counts", "G0"} <= {*table.columns} and "n_counts" not in table.columns
    assert np.array_equal(table["G5"].to_numpy(), X[:, 5])
    bare = tmp_path / "bare.h5ad"
    write_cells(bare, {"a": COUNTS}, GENES, None)
    assert read_table(bare).columns == ["a"]


@pytest.mark.parametrize("matrix", MATRICES)
def test_blocks_do_not_show(matrix, tmp_path, monkeypatch):
    path = write(tmp_path / "t.h5ad", matrix=matrix)
    monkeypatch.setattr(cells, "BLOCK", 37)
    near, far = [f"G{k}" for k in (4, 3, 6)], ["G0", "G28"]
    assert np.array_equal(read_table(path, near + far).to_numpy(), X[:, [4, 3, 6, 0, 28]])
    assert np.array_equal(read_table(path, far).to_numpy(), X[:, [0, 28]])


@pytest.mark.parametrize("matrix", ["csr", "csc"])
def test_entries_that_stand_twice_are_added(matrix, tmp_path):
    path = write(tmp_path / "t.h5ad", matrix=matrix)
    with h5py.File(path, "r+") as file:
        group = file["X"]
        parts = {name: group[name][:] for name in ("data", "indices", "indptr")}
        for name in parts:
            del group[name]
        group["data"], group["indices"] = parts["data"].repeat(2) / 2, parts["indices"].repeat(2)
        group["indptr"] = 2 * parts["indptr"]
    assert np.array_equal(read_table(path, ["G1", "G2"]).to_numpy(), X[:, 1:3])


def test_a_frame_and_a_sparse_matrix_in_obsm(tmp_path):
    path = write(tmp_path / "t.h5ad")
    with h5py.File(path, "r+") as file:
        file.copy("obs", file["obsm"], "more")
    write_cells(tmp_path / "s.h5ad", OBS, GENES, X, matrix="csr")
    with h5py.File(tmp_path / "s.h5ad", "r+") as file:
        file.copy("X", file.require_group("obsm"), "protein")
    assert read_table(path, ["more.louvain"])["more.louvain"].to_list() == CLUSTER
    assert np.array_equal(read_table(tmp_path / "s.h5ad", ["protein.3"]).to_numpy()[:, 0], X[:, 3])


MISTAKES = {
    "a gene's name": ("G100", "has no column 'G100'. Did you mean 'G1[0-9]'"),
    "a label's name": ("louvian", "Did you mean 'louvain'"),
    "of raw": ("raw/R350", "Did you mean 'raw/R35'|Did you mean 'raw/R3"),
    "a layer": ("layers/unspliced/G1", "no column 'layers/unspliced/G1'.*layers/spliced .30 genes"),
    "nothing near": ("zzzzzzzz", "There are obs .type, louvain, .*X .30 genes., raw .35 genes.*obsm/X_pca"),
    "beyond obsm": ("X_pca.4", "Did you mean 'X_pca"),
    "two of one name": ("n_counts", "give obs/n_counts or X/n_counts"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_sentences(case, tmp_path):
    name, sentence = MISTAKES[case]
    with pytest.raises(im.UserError, match=sentence):
        read_table(write(tmp_path / "t.h5ad"), [name])


def test_files_of_other_kinds_are_sentences(tmp_path):
    with h5py.File(tmp_path / "plain.h5ad", "w") as file:
        file["x"] = np.arange(3.0)
    with pytest.raises(im.UserError, match=r"not a file of AnnData, .*name it .h5"):
        read_table(tmp_path / "plain.h5ad", ["x"])
    (tmp_path / "none.h5ad").write_text("no hdf5")
    with pytest.raises(im.UserError, match=r"cannot be read as .h5ad"):
        read_table(tmp_path / "none.h5ad", ["x"])
    write_cells(tmp_path / "twice.h5ad", {"a": COUNTS}, ["G", *GENES[1:-1], "G"], X)
    with pytest.raises(im.UserError, match="2 columns that are named 'G': make names unique"):
        read_table(tmp_path / "twice.h5ad", ["G"])
    write_cells(tmp_path / "wide.h5ad", {"a": COUNTS[:2]}, [f"G{k}" for k in range(10_001)], np.zeros((2, 10_001)))
    with pytest.raises(im.UserError, match="10,001 genes: name those that matter"):
        read_table(tmp_path / "wide.h5ad")
    with h5py.File(write(tmp_path / "odd.h5ad"), "r+") as file:
        file["obs"].create_group("odd").attrs["encoding-type"] = "awkward-array"
        file["obs"].attrs["column-order"] = [*file["obs"].attrs["column-order"], "odd"]
    with pytest.raises(im.UserError, match="encoded as 'awkward-array', which is not read as a column"):
        read_table(tmp_path / "odd.h5ad", ["odd"])
    with h5py.File(write(tmp_path / "cut.h5ad", matrix="csc"), "r+") as file:
        del file["X/indices"]
    with pytest.raises(im.UserError, match=r"cut.h5ad cannot be read as .h5ad"):
        read_table(tmp_path / "cut.h5ad", ["G1"])


def test_the_command_estimates_genes_and_labels(run, tmp_path):
    write(tmp_path / "t.h5ad", matrix="csr")
    done = run(
        "infomax", "estimate", "t.h5ad", "--x", "X_pca.2,X_pca.3", "--y", "obsm/X_pca.0", "--method", "GCMI", "--json"
    )
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["mi"] == im.estimate(PCA[:, 2:], PCA[:, 0], "GCMI").mi
    assert found["protocol"]["names"] == {"x": ["X_pca.2", "X_pca.3"], "y": ["obsm/X_pca.0"]}
    done = run("infomax", "estimate", "t.h5ad", "--x", "G1", "--y", "louvian")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1) and "'louvain'" in done.err


@pytest.mark.slow
def test_a_dense_gene_is_read_without_the_others(tmp_path):
    """Of a matrix of 80 MB two columns, in less memory than the others would take."""
    wide, genes = RNG.normal(size=(10_000, 1000)), [f"G{k}" for k in range(1000)]
    write_cells(tmp_path / "wide.h5ad", {"a": np.arange(10_000)}, genes, wide)
    code = f"""
import resource
from pathlib import Path
from infomax.estimation.pairs.tables import read_table
read_table(Path({str(write(tmp_path / "small.h5ad"))!r}), ["G0"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert read_table(Path({str(tmp_path / "wide.h5ad")!r}), ["G7", "G999"]).shape == (10_000, 2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40_000  # kB


def test_labels_are_labels_beside_a_gene(tmp_path):
    """Clusters that are named by numbers are labels all the same."""
    clean = {"louvain": Labels([each or "0" for each in CLUSTER], list("0123"))}
    write_cells(tmp_path / "t.h5ad", clean, GENES, X)
    table = read_table(tmp_path / "t.h5ad", ["louvain", "G1"])
    assert table["louvain"].dtype == pl.Enum(list("0123"))
    found = im.estimate(table["G1"], table["louvain"], budget=Budget(steps=0))
    assert any("'louvain' of categories" in check.sentence for check in found.checks), found
