"""One process or several: the same value and gradient. One torchrun for all of it, since importing torch is slow."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import ranks_worker

WORKER = Path(__file__).with_name("ranks_worker.py")
KINDS = ("pairs", "layouts", "shares")


def every(exhaustive: bool) -> set[ranks_worker.Case]:
    worlds = [(kind, world) for kind in KINDS for world in (1, 2, 3) if kind != "shares" or world > 1]
    return {case for kind, world in worlds for case in ranks_worker.cases(kind, world, exhaustive)}


def pairs_of(found: set[ranks_worker.Case]) -> set[tuple[object, ...]]:
    """What occurs together: of layout (with what compares it), critic, objective, number of processes and path, two."""
    places = range(1, len(ranks_worker.Case._fields))
    return {(a, b, case.kind, case[a], case[b]) for case in found for a, b in itertools.combinations(places, 2)}


def test_the_cover_has_every_pair_of_the_whole_product():
    whole, cover = every(True), every(False)
    assert cover < whole and 4 * len(cover) < len(whole)
    assert pairs_of(cover) == pairs_of(whole)
    # And of these, each on 2 processes or on 3, in a ring and gathered.
    three = [{(c.kind, c.layout, c.text, c.ring) for c in found if c.world > 1} for found in (whole, cover)]
    assert three[0] == three[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_1_2_and_3_processes_give_the_same_value_and_gradient(tmp_path, exhaustive):
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "3", "--standalone", WORKER, tmp_path]
        + ["--exhaustive"] * exhaustive,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank*.json"))]
    assert run.returncode == 0, ([answer["failed"][:20] for answer in found], run.stderr[-3000:])
    assert len(found) == 3, "three processes answered"
    assert {tuple(case) for case in found[0]["seen"]} == every(exhaustive), "all comparisons were made"
    assert max(answer["made"] for answer in found) > 4 * len(every(exhaustive))
    assert not any(answer["failed"] for answer in found)
