"""Every kind of model on 1, 2 and 3 processes. Run by torchrun, this file is the worker of its own tests."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from test_training import accelerator
from torch import nn

import infomax as im
from infomax import launch
from infomax.training import loop

N = 12  # divisible by 1, 2 and 3
ALWAYS = ("InfoNCE()", "MINE()")  # one of rows, and one with a state of its own
OTHERS = tuple(text for kind in im.objectives.registry.values() if (text := f"{kind.__name__}()") not in ALWAYS)
# The ways that only some objectives are taken on: each is the engine's, and the model's part in it is the same.
WAYS = {"ring": {"ring": True}, "microbatch": {"microbatch": 2}}


class Batches:
    """The batches of a kind of model, this process's part of each."""

    batch_size = N

    def __init__(self, name: str):
        self.name = name

    def __len__(self):
        return 2

    def at(self, step, rank, world, device):
        own = slice(rank * N // world, (rank + 1) * N // world)
        inputs = [t * (1 + step / 4) for t in zoo.KINDS[self.name].batch(N)]
        return *(t[own] for t in inputs), torch.arange(N).roll(step)[own]


def objectives(place: int) -> tuple[str, ...]:
    """Of the kind of model at this place: two that all have, and two of the others in turn."""
    return (*ALWAYS, *(OTHERS[(2 * place + more) % len(OTHERS)] for more in range(2)))


def test_every_objective_is_met():
    met = {text for place in range(len(zoo.KINDS)) for text in objectives(place)}
    assert met == {*ALWAYS, *OTHERS} and len(met) == len(im.objectives.registry)


def cases():
    """Name -> model and batches."""
    for place, name in enumerate(zoo.KINDS):
        for text in objectives(place):
            yield f"{name} {text}", zoo.made(name, text), name
        for way, options in WAYS.items():
            yield f"{name} {way}", zoo.made(name, "MINE()", **options), name
    yield "MoCo shared, from an empty queue, in a ring", zoo.moco(im.NWJ(), ring=True).double(), "MoCo"
    yield "MoCo shuffled", zoo.made("MoCo", "SMILE()", shuffle=True), "MoCo"
    empty = zoo.moco(im.NWJ()).double()
    yield "MoCo from an empty queue", empty, "MoCo"


def state(model):
    with model.whole():
        return {key: value.clone() for key, value in model.state_dict().items()}


def trained(model, name, by, parts=((0, 3),), kind: Any = torch.optim.SGD):
    optimizer = kind(model.parameters(), lr=0.1)
    steps = []
    for start, end in parts:
        steps += im.train(model, Batches(name), optimizer, lambda step: 1.0, by, steps=end, start=start)
    numbers = torch.tensor([[step.mi, step.surrogate, step.gradient_norm, step.ceiling] for step in steps])
    return {"steps": numbers, **state(model)}


def outcomes(by):
    torch.manual_seed(2)  # of models that draw no seed of their own
    return {case: trained(model, name, by) for case, model, name in cases()}


class Kept(nn.Module):
    """An encoder with a head that features do not use, or, where `later`, only from the second batch on."""

    num_features = 6

    def __init__(self, later: bool = False):
        super().__init__()
        self.body, self.classifier = zoo.images_encoder(), nn.Linear(6, 3)
        self.drop = nn.Dropout(0.3)
        self.later, self.seen = later, 0

    def forward(self, images):
        found = self.drop(self.body(images))
        self.seen += 1
        return found + self.classifier(found).sum() if self.later and self.seen > 1 else found


def with_head(later=False, text="MINE()"):
    torch.manual_seed(1)
    return im.InfoMax(Kept(later), zoo.projector(), zoo.cosine(), im.objectives.objective(text)).double()


def worker(folder: Path) -> None:
    torch.set_num_threads(1)
    by, told = launch.make_accelerator(), []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("infomax").addHandler(handler)
    found: dict[str, Any] = {"outcomes": outcomes(by)}
    told.clear()
    # A head that nothing uses, with decay: it stays as it is, and is named once a training.
    found["head"] = trained(with_head(), "InfoMax", by, kind=torch.optim.AdamW)
    found["told"] = list(told)
    found["microbatched head"] = trained(_in_chunks(with_head()), "InfoMax", by, kind=torch.optim.AdamW)
    found["resumed"] = trained(with_head(), "InfoMax", by, ((0, 1), (1, 3)), torch.optim.AdamW)
    # With and without the trial, what draws and what remembers ends with the same bits.
    for case, make in (("dropout", lambda: with_head()), ("MoCo", lambda: zoo.made("MoCo", "MINE()", shuffle=True))):
        models = make(), make()
        if case == "dropout":
            for model in models:
                model.encoder.classifier.requires_grad_(False)
        name = "MoCo" if case == "MoCo" else "InfoMax"
        torch.manual_seed(5)
        with_trial = trained(models[0], name, by)
        kept, loop._unused = loop._unused, lambda *arguments: {}
        torch.manual_seed(5)
        without = trained(models[1], name, by)
        loop._unused = kept
        found[f"same {case}"] = all(torch.equal(with_trial[key], value) for key, value in without.items())
    try:
        trained(with_head(later=True), "InfoMax", by)
    except im.UserError as error:
        found["late"] = str(error)
    torch.save(found, folder / f"{by.process_index}.pt")
    launch.leave(by)


def _in_chunks(model):
    model.microbatch = 2
    return model


@pytest.fixture(scope="module")
def one():
    """What one process ends with."""
    return outcomes(accelerator())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_one_and_more_processes_end_alike(on_processes, tmp_path, processes, one):
    on_processes(processes, __file__)
    every = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(processes)]
    for rank, found in enumerate(every):
        assert found["outcomes"].keys() == one.keys()
        for case, expected in one.items():
            assert found["outcomes"][case].keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(
                    found["outcomes"][case][key], value, rtol=1e-6 if key == "steps" else 1e-8, atol=1e-9,
                    msg=lambda m, c=case, k=key: f"{c} {k}: {m}",
                )  # fmt: skip
            for key in ("keys", "filled") if case.startswith("MoCo") else ():
                assert torch.equal(found["outcomes"][case][key], every[0]["outcomes"][case][key]), (case, key)
        assert found["same dropout"] and found["same MoCo"]
        start = state(with_head())
        for case in ("head", "microbatched head", "resumed"):
            for key, value in found[case].items():
                if "classifier" in key:
                    assert torch.equal(value, start[key]), (case, key)
        for key, value in found["head"].items():
            if processes == 2:
                assert torch.equal(found["resumed"][key], value), key
            else:  # DistributedDataParallel sums three numbers in another order in its first step than in later ones
                torch.testing.assert_close(found["resumed"][key], value, rtol=1e-12, atol=1e-14)
        assert not torch.equal(found["head"]["encoder.body.0.weight"], start["encoder.body.0.weight"])
        assert "step 2 uses parameters" in found["late"] and "encoder.classifier.weight" in found["late"]
        assert len(found["told"]) == (rank == 0)
    assert every[0]["told"][0].startswith("The loss does not use encoder.classifier.weight, encoder.classifier.bias:")


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
