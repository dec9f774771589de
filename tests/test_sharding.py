"""FSDP2: parameters in shards train as whole copies do. Run by torchrun, this file is the worker of its own tests."""

import functools
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zoo
from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from test_models_on_processes import Batches
from test_training import accelerator

import infomax as im
from infomax import distributed, launch
from infomax.training.wrapping import refuse_sharding

STEPS = 10
SAVED: Path | None = None  # where a training saves itself half-way
WRAPS = {"by size": {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "20"}, "root alone": {}}


def cases():
    """Name -> how a model is made, its batches' name, how it is wrapped."""
    made = functools.partial
    for kind in im.objectives.registry.values():
        yield kind.__name__, made(zoo.made, "InfoMax", f"{kind.__name__}()"), "InfoMax", "by size"
    for name in ("NT-Xent", "MoCo", "DeepInfoMax", "CPC of images", "TwoTower"):
        wrap = "root alone" if name.startswith("CPC") else "by size"  # CPC's terms lie in a list
        yield f"{name}, NWJ", made(zoo.made, name, "NWJ()"), name, wrap
    yield "MoCo in a ring", made(zoo.made, "MoCo", "MINE()", ring=True, shuffle=True), "MoCo", "root alone"
    yield "in micro-batches", made(zoo.made, "InfoMax", "SMILE()", microbatch=2), "InfoMax", "root alone"


def again(shards: str | None, precision: str = "no"):
    """An accelerator of this process, of whole copies, or of shards as `shards` says."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    for name in [name for name in os.environ if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP"))]:
        del os.environ[name]
    if shards is not None:
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **WRAPS[shards]}
    return launch.make_accelerator(precision)


class InFloat32(Batches):
    def at(self, *arguments):
        *inputs, ids = super().at(*arguments)
        return *(t.float() for t in inputs), ids


def trained(model, batches, by, start=0, optimizer=None) -> dict[str, Any]:
    torch.manual_seed(3)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01)
    steps = []
    for step in im.train(model, batches, optimizer, lambda step: 1.0, by, steps=STEPS, start=start):
        steps.append(step)
        if SAVED is not None and step.number == STEPS // 2:
            im.checkpoints.save(model, SAVED, step=step.number, optimizer=optimizer)
    numbers = torch.tensor([[step.mi, step.surrogate, step.gradient_norm] for step in steps], dtype=torch.float64)
    with model.whole():
        state = distributed.whole_tensors(model.state_dict())
    moments = distributed.whole_tensors(optimizer.state_dict())["state"]
    return {"steps": numbers, **state, **{f"moment {i}": moments[i]["exp_avg"] for i in moments}}


def worker(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {}
    for case, make, name, wrap in cases():
        copy, shards = make(), make()
        batches = Batches(name)
        expected, actual = trained(copy, batches, again(None)), trained(shards, batches, again(wrap))
        assert distributed.is_sharded(shards) and not distributed.is_sharded(copy)
        found[case] = {key: (value, actual[key]) for key, value in expected.items()}
    copy, shards = zoo.made("InfoMax", "SMILE()").float(), zoo.made("InfoMax", "SMILE()").float()
    batches = InFloat32("InfoMax")
    pair = trained(copy, batches, again(None, "bf16")), trained(shards, batches, again("by size", "bf16"))
    found["bf16"] = {key: (value, pair[1][key]) for key, value in pair[0].items()}
    saved(folder, found)
    if distributed.rank() == 0:
        torch.save(found, folder / "found.pt")
    launch.leave(again(None))


def saved(folder: Path, found: dict[str, Any]) -> None:
    """A run in shards, saved half-way; goes on in shards from there, and from what one process (the test) saved."""
    global SAVED
    SAVED = folder / "shards"
    whole = trained(resumable(), Batches("MoCo"), again("by size"))
    SAVED = None
    resumed = gone_on(folder / "shards", again("by size"))
    half = {key: (value, resumed[key]) for key, value in whole.items() if key != "steps"}
    found["resumed in shards"] = half | {"steps": (whole["steps"][STEPS // 2 :], resumed["steps"])}
    alone = gone_on(folder / "alone", again("by size"))
    found["of one process, resumed in shards"] = {key: (whole[key], alone[key]) for key in half}


def resumable() -> im.Model:
    return zoo.made("MoCo", "MINE()")


def gone_on(path: Path, by) -> dict[str, Any]:
    model = resumable()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    checkpoint = im.checkpoints.read(path)
    checkpoint.restore(model, optimizer)
    return trained(model, Batches("MoCo"), by, checkpoint.step, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [None, 4])
def test_encoders_are_compiled_by_accelerates_option(microbatch):
    def ends(by):
        model = zoo.made("InfoMax", "SMILE()", microbatch=microbatch)
        return model, trained(model, Batches("InfoMax"), by)

    plain, expected = ends(accelerator())
    by: Any = accelerator(dynamo_backend="eager")  # inductor takes a minute; how it is reached is the same
    compiled, found = ends(by)
    assert plain.encoder._compiled_call_impl is None and compiled.encoder._compiled_call_impl is not None
    assert compiled.projector._compiled_call_impl is None and by.state.dynamo_plugin.backend is DynamoBackend.EAGER
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("wrap", "make", "said"),
    [
        ("by size", lambda: zoo.made("InfoMax", "JS()", microbatch=2), "--microbatch under FSDP2 needs"),
        ("by size", lambda: zoo.made("CPC of images", "JS()"), "would wrap later, a ModuleList of 42"),
        ("root alone", lambda: zoo.made("InfoMax", "JS()", microbatch=2), None),
        ("root alone", lambda: zoo.made("CPC of images", "JS()"), None),
    ],
)
def test_what_cannot_be_sharded_is_a_sentence(monkeypatch, wrap, make, said):
    asked = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}
    for name, value in {**asked, **WRAPS[wrap]}.items():
        monkeypatch.setenv(name, value)
    # What of an accelerator is asked: to shard there must be two processes.
    state = SimpleNamespace(fsdp_plugin=launch._sharding("no"), dynamo_plugin=TorchDynamoPlugin())
    by: Any = SimpleNamespace(is_fsdp2=True, state=state)
    if said is None:
        refuse_sharding(make(), by)
        state.dynamo_plugin = TorchDynamoPlugin(backend=DynamoBackend.INDUCTOR)
        said = "--dynamo_backend under FSDP2"
    with pytest.raises(im.UserError, match=said):
        refuse_sharding(make(), by)


@pytest.mark.slow
def test_shards_train_as_copies_do(on_processes, tmp_path):
    global SAVED
    SAVED = tmp_path / "alone"
    expected = trained(resumable(), Batches("MoCo"), accelerator())
    SAVED = None
    on_processes(2, __file__)
    # What was saved in shards is whole, of the classes it was made of, and goes on in one process.
    described = im.checkpoints.read(tmp_path / "shards").model
    assert (
        described is not None
        and described["model"] == "MoCo"
        and described["parts"]["projector"].startswith("Projector(")
    )
    resumed = gone_on(tmp_path / "shards", accelerator())
    for key in expected.keys() - {"steps"}:
        torch.testing.assert_close(resumed[key], expected[key], rtol=1e-8, atol=1e-9)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert len(found) > len(im.objectives.registry) + 7
    for case, pairs in found.items():
        for key, (whole, shards) in pairs.items():
            torch.testing.assert_close(
                shards, whole, rtol=1e-4 if case == "bf16" else 1e-6 if key == "steps" else 1e-8,
                atol=1e-6 if case == "bf16" else 1e-9,
                msg=lambda m, c=case, k=key: f"{c} {k}: {m}",
            )  # fmt: skip


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
