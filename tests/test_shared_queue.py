"""MoCo's queue across processes: a share each, the same loss as of the whole queue, one form in a checkpoint.

Run by torchrun on 4 processes, this file is the worker of its own test.
"""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import zoo

import infomax as im
from infomax.distributed import Ranks

N, QUEUE = 12, 24
answers: dict[str, object] = {}


def made(ring=False):
    torch.manual_seed(1)
    return im.MoCo(zoo.images_encoder(), zoo.projector(), zoo.cosine(), im.SMILE(), queue=QUEUE, ring=ring).double()


def batch(step, rank, world):
    own = slice(rank * N // world, (rank + 1) * N // world)
    return [t[own] * (1 + step / 4) for t in zoo.KINDS["MoCo"].batch(N)], torch.arange(N).roll(step)[own]


def stepped(model, optimizer, steps, rank, world):
    for step in steps:
        model.train()
        inputs, ids = batch(step, rank, world)
        model(inputs, ids).backward()
        for parameter in model.parameters():
            if parameter.grad is not None and world > 1:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world
        optimizer.step()
        optimizer.zero_grad()
        model.after_step()


def whole(model):
    with model.whole():
        return {key: value.clone() for key, value in model.state_dict().items()}


def optimiser(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def saved_on_two(folder, rank):
    model = made()
    optimizer = optimiser(model)
    stepped(model, optimizer, range(3), rank, 2)
    answers["held"] = len(model.keys), len(model.key_ids), len(model.state_dict()["keys"])
    before = model.keys.clone()
    found = whole(model)
    answers["put back"] = torch.equal(model.keys, before) and len(found["keys"]) == QUEUE
    answers["own"] = torch.equal(found["keys"][rank::2], before)
    im.checkpoints.save(model, folder / "two", optimizer=optimizer)
    dist.barrier()
    # Filled again where it was shared already.
    im.checkpoints.read(folder / "two").restore(model, optimizer)
    answers["again"] = all(torch.equal(value, found[key]) for key, value in whole(model).items())
    if rank == 0:
        torch.save(found, folder / "whole.pt")
    stepped(model, optimizer, range(3, 5), rank, 2)
    if rank == 0:
        torch.save(model.state_dict() | {"rank": torch.tensor(rank)}, folder / "own.pt")
    gone_on = whole(model)
    if rank == 0:
        torch.save(gone_on, folder / "gone on.pt")


def resumed(folder, rank, world):
    expected = torch.load(folder / "whole.pt", weights_only=True)
    for ring in (False, True):
        model = made(ring)
        optimizer = optimiser(model)
        im.checkpoints.read(folder / "two").restore(model, optimizer)
        model.share()
        answers[f"on {world}"] = len(model.keys) == QUEUE // world
        answers[f"same on {world}"] = all(torch.equal(value, expected[key]) for key, value in whole(model).items())
        stepped(model, optimizer, range(3, 5), rank, world)
        after = torch.load(folder / "gone on.pt", weights_only=True)
        # Sums over rows are rounded in another way on another number of processes.
        answers[f"after on {world}, ring={ring}"] = max(
            float((value.double() - after[key].double()).abs().max()) for key, value in whole(model).items()
        )


def loss_of_shares(rank, world):
    """Value and gradient with a share each and with all of the queue on each, of models that are alike."""
    for ring in (False, True):
        shared, alike = made(ring), made(ring)
        stepped(shared, optimiser(shared), range(3), rank, world)
        alike.load_state_dict(alike.fitted(whole(shared)))
        alike.share = lambda: None
        inputs, ids = batch(3, rank, world)
        found = []
        for model in (shared, alike):
            value = model(inputs, ids)
            parameters = [p for p in model.parameters() if p.requires_grad]
            found.append(
                torch.cat([value.detach()[None], *(g.flatten() for g in torch.autograd.grad(value, parameters))])
            )
        sides = shared.sides(inputs, ids), alike.sides(inputs, ids)
        answers[f"kinds on {world}"] = sides[0].sharded == (world > 1) and not sides[1].sharded
        answers[f"columns on {world}"] = len(sides[0].extra) * world == len(sides[1].extra) == QUEUE
        answers[f"error on {world}, ring={ring}"] = float((found[0] - found[1]).abs().max())


def left_over(rank):
    model = made()
    stepped(model, optimiser(model), range(1), rank, 4)
    dist.barrier()
    dist.destroy_process_group()
    try:
        model.share()
    except im.UserError as error:
        answers["left over"] = str(error)


def main(folder):
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    for number, (world, work) in enumerate((
        (2, lambda: saved_on_two(folder, rank)), (1, lambda: resumed(folder, rank, 1)),
        (4, lambda: resumed(folder, rank, 4)), (3, lambda: loss_of_shares(rank, 3)),
        (2, lambda: loss_of_shares(rank, 2)), (1, lambda: loss_of_shares(rank, 1)), (4, lambda: left_over(rank)),
    )):  # fmt: skip
        if rank < world:
            dist.init_process_group(
                "gloo", init_method=f"file://{folder}/store{number}", rank=rank, world_size=world
            )  # fmt: skip
            work()
            if dist.is_initialized():
                dist.barrier()
                dist.destroy_process_group()
        if number < 6:
            (folder / f"done{number}-{rank}").touch()
            _wait_for(folder, number)
    (folder / f"rank{rank}.json").write_text(json.dumps(answers))
    os._exit(0)


def _wait_for(folder, number):
    while sum((folder / f"done{number}-{rank}").exists() for rank in range(4)) < 4:
        time.sleep(0.02)


@pytest.mark.slow
def test_each_process_holds_a_share_and_a_checkpoint_holds_the_queue(on_processes, tmp_path):
    on_processes(4, __file__)
    for rank in range(4):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert found["on 4"] and found["same on 4"] and "holds a share" in found["left over"]
        checked = [key for key in found if key.startswith(("after", "error"))]
        assert len(checked) == {0: 2 + 2 + 2 + 2 + 2, 1: 2 + 2 + 2, 2: 2 + 2, 3: 2}[rank]
        assert all(found[key] < 1e-12 for key in checked), found
        assert all(found[key] for key in found if key.startswith(("kinds", "columns")))
        if rank < 2:
            assert found["held"] == [12, 12, 12]
            assert found["put back"] and found["own"] and found["again"]
        if rank == 0:
            assert found["on 1"] and found["same on 1"]
    # What one process holds is refused where a whole queue is wanted, and the saved run is a whole model's.
    with pytest.raises(RuntimeError, match="keys"):
        made().load_state_dict({key: t for key, t in torch.load(tmp_path / "own.pt").items() if key != "rank"})
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    model = made()
    im.checkpoints.read(tmp_path / "two").restore(model)
    assert torch.equal(model.keys, whole["keys"]) and torch.equal(model.key_ids, whole["key_ids"])
    assert int(model.filled) == 3 * N


def test_of_one_process_nothing_is_shared():
    model = made()
    model.share()
    with model.whole():
        assert len(model.keys) == QUEUE
    assert not model.sides(*batch(0, 0, 1)).sharded and Ranks.current().size == 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
