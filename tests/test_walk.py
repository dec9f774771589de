"""The walk of docs/data.md: from a flat folder of unlabelled TIFFs of 4 channels to an encoder, its health, its MI.

The commands are those that the page prints, on fewer and smaller files and fewer steps; what is asserted is read on the
terminal and on the report. The launcher starts what trains; the others run in this process, without imports of theirs.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import saved_in

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SECTION = (ROOT / "docs/data.md").read_text().partition("## Five hundred TIFFs without labels")[2].partition("\n## ")[0]

# What tifffile writes of [4, h, w] where nothing is said, and warns that it will not for ever.
AS_DEFAULT = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]}


def command(words, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=600, cwd=folder, env=environment
    )


def write_tiffs(folder, count, side, **form):
    """Cells at random places, in 4 channels of different extent and strength, and one file that was cut in copying."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    folder.mkdir()
    for number in range(count):
        image = rng.poisson(200, (4, side, side)).astype(float)
        for _ in range(rng.integers(2, 5)):
            across, down, radius = *rng.uniform(2, side - 2, 2), rng.uniform(2, 4)
            for channel, strength in enumerate(rng.uniform(500, 6000, 4)):
                distance = (x - across) ** 2 + (y - down) ** 2
                image[channel] += strength * np.exp(-distance / (radius * (1 + channel / 4)) ** 2)
        tifffile.imwrite(folder / f"cell_{number:04}.tif", image.astype(np.uint16), **form)


def test_the_page_prints_the_three_commands():
    commands = re.findall(r"^    ((?:accelerate launch|infomax) .*)$", SECTION, re.MULTILINE)
    assert commands == [
        "accelerate launch recipes/simclr.py --dataset folder:cells --batch-size 64",
        "infomax estimate checkpoints/simclr",
        "infomax report checkpoints/simclr",
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("form", "said"),
    [({"photometric": "minisblack"}, "read as 4 channels"), (AS_DEFAULT, "it is read as a channel")],
    ids=["marked", "default"],
)
def test_from_a_folder_of_tiffs_to_an_encoder_its_health_and_its_mi(run, tmp_path, form, said):
    write_tiffs(tmp_path / "cells", 150, 16, **form)
    (tmp_path / "cells/cell_0007.tif").write_bytes((tmp_path / "cells/cell_0007.tif").read_bytes()[:900])
    recipe = [BIN / "accelerate", "launch", ROOT / "recipes/simclr.py", "--dataset", "folder:cells"]
    short = ["--batch-size", "32", "--epochs", "4", "--health-every", "2"]

    # The cut file is named, and the sentence says what to do about it.
    refused = run("simclr", "--dataset", "folder:cells", *short)
    assert refused.status != 0 and "--skip-unreadable" in refused.err
    assert re.search(r"The image cells/cell_0007\.tif cannot be read \(.*\): remove it", refused.err)
    assert not (tmp_path / "checkpoints").exists()

    trained = command([*recipe, *short, "--skip-unreadable"], tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "1 of 150 images are left out, as they cannot be read: cell_0007.tif." in trained.stderr
    assert said in trained.stderr
    assert re.search(
        r"folder:cells: \d+ training and \d+ held-out images \[4, 16, 16\], without labels\.", trained.stderr
    )
    assert re.search(r"Pixels of uint16 are brought to 8 bits: .* by channel\.", trained.stderr)
    assert (
        "12 steps in all, 3 an epoch of 32 pairs each, are few to learn from: a smaller --batch-size" in trained.stderr
    )
    out = " ".join(trained.stdout.split())
    assert "Probes: not measured: folder:cells's training set has no labels, and probes need them" in out
    assert re.search(
        r"Health of held-out features after step 12: RankMe \d[\d.]*, deviation 0\.\d+,"
        r" held-out MI -?\d+\.\d+ of \d\.\d+; not collapsed", out
    )  # fmt: skip
    assert saved_in(trained.stdout) == "checkpoints/simclr"
    kept = json.loads((tmp_path / "checkpoints/simclr/run.json").read_text())["configuration"]["data_notes"]
    assert any(said in note for note in kept)

    estimated = run("infomax", "estimate", "checkpoints/simclr")
    assert estimated.status == 0, estimated.err
    lines = estimated.out.splitlines()
    assert lines[0] == "I(Z1; Z2) of two views"
    assert re.search(r"nats", lines[1]) and re.search(
        r"certified at 95 %\), ceiling 3\.\d+ \(log of 3\d report", lines[3]
    )
    assert "I(Z; label): not measured: The data set has no labels." in lines
    assert any(line.startswith("  projection ") for line in lines)

    reported = run("infomax", "report", "checkpoints/simclr")
    assert reported.status == 0, reported.err
    assert reported.out == "Written to checkpoints/simclr/report.html\n"
    page = (tmp_path / "checkpoints/simclr/report.html").read_text()
    for words in (
        "<h2>Health</h2>",
        "Not measured: folder:cells",
        "has no labels",
        "<h2>Along the layers</h2>",
        "<svg",
    ):
        assert words in page, words
