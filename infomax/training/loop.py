"""The training loop: a generator of Steps. The caller's for-body logs, saves and evaluates."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from infomax.distributed import full, gather_objects
from infomax.errors import NonFinite, UserError, meeting_nonfinite
from infomax.randomness import random_state, set_random_state
from infomax.training.batches import batch_at
from infomax.training.wrapping import is_sharding, reduce_whole, refuse_sharding, wrap

if TYPE_CHECKING:
    from accelerate import Accelerator

    from infomax.models import Model


class Loader(Protocol):
    """What train reads: batches by step number, so that a run resumes at any step. data.PairLoader is one."""

    batch_size: int  # global: the N of the objective and of its ceiling log N

    def __len__(self) -> int: ...  # steps an epoch

    def at(self, step: int, rank: int, world: int, device: Any) -> Sequence[Any]:
        """The inputs of a batch, and last the ids, on `device`.

        step: counted from 0 over all epochs. rank, world: the number of this process, and how many there are.
        """
        ...


@dataclass(frozen=True)
class Step:
    """One optimiser step, as every process sees it."""

    number: int  # steps done, this one included
    epoch: int  # of this step's batch, from 0
    mi: float  # the objective's value, mean over processes, nats; not finite where the value overflowed
    surrogate: float  # what was ascended; equal to mi where the two are one formula
    pairs: int  # N, the global batch size
    ceiling: float  # log of a row's candidates, nats: of N pairs log N; of NT-Xent log(2 N - 1); of a queue log(N + k)
    gradient_norm: float  # before clipping
    learning_rate: float  # of this step, of the first group of parameters
    images_per_second: float  # views encoded, over all processes
    terms: dict[str, float] = field(default_factory=dict)  # each term's own value, nats, where a model has several
    skipped: bool = False  # nothing was learnt from this batch: it gave a loss or gradient that is not finite

    def to_dict(self) -> dict[str, float]:
        """All of it as one level of names: a term is "mi/<its name>"."""
        content = {name: value for name, value in vars(self).items() if name != "terms"}
        return content | {f"mi/{name}": value for name, value in self.terms.items()}


NONFINITE = ("stop", "skip")
SKIPPED_AT_MOST = 20  # steps in succession: of float16 while its loss scale is found, and under nonfinite="skip"


def train(
    model: "Model",
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    accelerator: "Accelerator",
    *,
    steps: int,
    start: int = 0,
    skipped: int = 0,
    clip: float = 1.0,
    nonfinite: str = "stop",
) -> Iterator[Step]:
    """Maximises the model's objective; yields a Step after each optimiser step, from `start` to `steps`.

    loader: batches by step number, as data.PairLoader's. optimizer: of the model's parameters. schedule(step)
    multiplies each group's initial learning rate. clip: largest gradient norm, above 0; inf for none.
    `accelerator` wraps model and optimiser (do not prepare them); both stay usable, unwrapped, in the for-body.
    nonfinite: where the surrogate or a gradient is not finite, "stop" raises NonFinite, with the step, the term and
    what to try; "skip" leaves that batch out (Step.skipped), and raises after 20 in succession. Parameters, buffers and
    optimiser are as they were before the step; `skipped` is how many in succession ended at `start`, where a run is
    resumed. A value that is not finite does neither: its gradient is the surrogate's.
    Trainable parameters that the first batch's loss does not use are named in a warning and stay as they are. Raises
    UserError: gradient accumulation, a loss without a gradient, another nonfinite, a schedule that is no function,
    nothing to train or an optimiser of none of it, a batch that is a dictionary or no tensors, an objective that a
    later step could not read, and, across processes, such a parameter that a later batch's loss does use.
    """
    if nonfinite not in NONFINITE:
        raise UserError(f"What is not finite is met by one of {', '.join(NONFINITE)}, not {nonfinite!r}.")
    if not clip > 0:
        raise UserError(f"clip is the largest gradient norm, above 0, or inf for none; not {clip!r}.")
    if accelerator.gradient_accumulation_steps > 1:
        raise UserError(
            "Gradient accumulation is refused: it adds no negatives, so N and the objective would be those of"
            f" 1/{accelerator.gradient_accumulation_steps} of the batch. Use more processes or a smaller encoder."
        )
    if not callable(schedule):
        raise UserError(
            f"A schedule is a function of the step, such as infomax.training.warmup_cosine(steps), not {schedule!r};"
            " lambda step: 1.0 keeps the optimiser's learning rate."
        )
    _refuse_untrained(model, optimizer)
    rates = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    rank, world = accelerator.process_index, accelerator.num_processes
    if start >= steps:
        return
    refuse_sharding(model, accelerator)
    model.share()
    sharding = is_sharding(accelerator)
    unused = _unused(model, loader, accelerator, start) if world > 1 else {}
    inputs, ids = batch_at(loader, start, rank, world, accelerator.device)
    _try_later(model.to(accelerator.device), inputs)
    wrapped, prepared = wrap(model, optimizer, accelerator, list(unused))
    if sharding:  # whose parameters are new ones
        unused = {name: p for name, p in model.named_parameters() if name in unused}
    buffers = list(model.buffers())  # running statistics, which a forward moves before the loss is seen
    kept = [buffer.clone() for buffer in buffers]
    for step in range(start, steps):
        began = time.perf_counter()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(step)
        wrapped.train()
        if buffers:
            torch._foreach_copy_(kept, buffers)  # pyright: ignore[reportPrivateImportUsage]
        if step > start:
            inputs, ids = batch_at(loader, step, rank, world, accelerator.device)
        try:
            with accelerator.autocast(), meeting_nonfinite():  # FSDP2's wrapper has no autocast of its own
                mi = wrapped(inputs, ids=ids)
        except RuntimeError as error:
            if step == start and world == 1 and not isinstance(error, torch.OutOfMemoryError):
                check_inputs(model, inputs)  # says which part cannot take what
            raise
        if step == start and not mi.requires_grad:
            raise UserError(
                "The loss has no gradient: what the parts to be trained give is cut from them, as detach() or"
                " no_grad() in an encoder's forward does; leave that out."
            )
        accelerator.backward(-mi)
        if sharding:
            reduce_whole(model, accelerator)
        if step == start and world == 1:
            _say_unused(_without_gradient(model))
        norm = accelerator.clip_grad_norm_(model.parameters(), clip)
        assert model.surrogate is not None and norm is not None
        late = torch.full_like(mi, float(any(p.grad is not None for p in unused.values())))
        numbers = [mi.detach(), model.surrogate, late, *model.terms.values()]
        seen = accelerator.reduce(torch.stack(numbers).double(), "mean")
        value, surrogate, used, *terms = seen.tolist()  # type: ignore[union-attr]
        if used:  # on any process: their gradients are of each process alone, and its weights would go their own way
            raise UserError(
                f"The loss of step {step + 1} uses parameters that the first batch's did not, among {_named(unused)}:"
                " across processes, a loss must use the same parameters at every step; train on one process, or use"
                " them at each step, if with weight 0."
            )
        size = float(full(norm))
        # The mean over processes and the synchronised norm are the same everywhere, so all processes decide alike.
        broken = not (math.isfinite(surrogate) and math.isfinite(size))
        skipped = skipped + 1 if broken else 0
        if broken:
            if buffers:
                torch._foreach_copy_(buffers, kept)  # pyright: ignore[reportPrivateImportUsage]
            # Under float16 an overflow now and then is how the loss scale is found.
            scaling = accelerator.scaler is not None and math.isfinite(surrogate)
            if not (scaling or nonfinite == "skip") or skipped > SKIPPED_AT_MOST:
                raise NonFinite(_diagnosis(model, inputs, step, value, surrogate))
        if not broken or accelerator.scaler is not None:  # a scaler leaves the step out, and lowers its scale
            prepared.step()
            if not broken and not accelerator.optimizer_step_was_skipped:
                model.after_step()
        prepared.zero_grad()
        yield Step(
            number=step + 1,
            epoch=step // len(loader),
            mi=value,
            surrogate=surrogate,
            pairs=loader.batch_size,
            ceiling=model.ceiling,
            gradient_norm=size,
            learning_rate=optimizer.param_groups[0]["lr"],
            images_per_second=len(inputs) * loader.batch_size / (time.perf_counter() - began),
            terms=dict(zip(model.terms, terms, strict=True)),
            skipped=broken,
        )


def _refuse_untrained(model: "Model", optimizer: torch.optim.Optimizer) -> None:
    """Raises UserError where no step could change the model."""
    if not hasattr(optimizer, "param_groups"):
        raise UserError(
            f"optimizer is one of torch.optim, of model.parameters(), such as AdamW, and not {optimizer!r}."
        )
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    if not trainable:
        raise UserError("No parameter of the model is to be trained (requires_grad): freeze fewer of them.")
    if trainable.isdisjoint(id(p) for group in optimizer.param_groups for p in group["params"]):
        raise UserError("The optimiser has no trainable parameter of this model: make it of model.parameters().")


def _unused(model: "Model", loader: Loader, accelerator: "Accelerator", step: int) -> dict[str, nn.Parameter]:
    """Trainable parameters, by name, that no process's loss of `step` uses; DistributedDataParallel waits for them.

    One forward and backward of a copy: so the model, its objective's running averages and its queue stay, and the
    random generators are put back.
    """
    model.to(accelerator.device)
    before = random_state()
    trial = copy.deepcopy(model).train()
    named = {name: p for name, p in trial.named_parameters() if p.requires_grad}
    inputs, ids = batch_at(
        loader, step, accelerator.process_index, accelerator.num_processes, accelerator.device
    )  # fmt: skip
    with accelerator.autocast(), meeting_nonfinite():
        mi = trial(inputs, ids=ids)
    found = torch.autograd.grad(mi, [*named.values()], allow_unused=True) if mi.requires_grad else [mi] * len(named)
    set_random_state(before)
    # Of all processes: what one of them uses, all must wait for.
    everywhere = gather_objects([name for name, gradient in zip(named, found, strict=True) if gradient is None])
    common = set.intersection(*map(set, everywhere))
    unused = {name: p for name, p in model.named_parameters() if name in common}
    if accelerator.is_main_process:
        _say_unused(unused)
    return unused


def _without_gradient(model: "Model") -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad and p.grad is None}


def _say_unused(unused: dict[str, nn.Parameter]) -> None:
    if unused:
        logging.getLogger("infomax").warning(
            f"The loss does not use {_named(unused)}: without a gradient these stay as they are."
        )


def _named(parameters: dict[str, nn.Parameter]) -> str:
    names = list(parameters)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more parameters" if len(names) > 6 else "")


def check_model(model: "Model", shape: Sequence[int], pairs: int, device: str | torch.device = "cpu") -> None:
    """Tries a model on `pairs` pairs of black images of `shape` (c, h, w), on `device`: check_inputs, of two views."""
    check_inputs(model, [torch.zeros(pairs, *shape, device=device)] * 2)


@torch.no_grad()
def check_inputs(model: "Model", inputs: Sequence[torch.Tensor]) -> None:
    """Tries a model on inputs [n, ...] each, such as a loader gives; model and generators stay as they were.

    Raises UserError where a part or the objective cannot take them, which a recipe should know before it writes
    anything. Called by all processes.
    """
    kinds = [type(t).__name__ for t in inputs if not isinstance(t, torch.Tensor)]
    if kinds:
        raise UserError(
            f"The inputs of a batch are tensors [n, ...], and there is a {kinds[0]}; give its tensors one by one."
        )
    model.try_now(inputs)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        _try_objective(model, inputs)
    finally:
        for module, training in modes:
            module.training = training


def _try_later(model: "Model", inputs: Sequence[torch.Tensor]) -> None:
    """Raises UserError for what a later step on such inputs would meet; the model stays as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with meeting_nonfinite():
            model.try_later([t[:4] for t in inputs])
    finally:
        for module, training in modes:
            module.training = training


def _try_objective(model: "Model", inputs: Sequence[torch.Tensor]) -> None:
    try:
        with meeting_nonfinite():
            model(inputs)
            model.try_later(inputs)
    except UserError:
        raise
    except Exception as error:  # a formula of the user's own may raise anything
        raise UserError(
            f"The objective {model.objective!r} cannot read scores of {len(inputs[0])} pairs: {error}."
        ) from error


def synchronise_batch_norm(model: "Model") -> "Model":
    """Makes BatchNorm normalise over all processes rather than over each one's part of the batch.

    model: whose layers are replaced; call this before the optimiser is made, with what is returned.
    Raises UserError without a GPU, where torch has no synchronised form.
    """
    if not torch.cuda.is_available():
        raise UserError("Synchronised BatchNorm needs GPUs; on a CPU each process normalises its part of the batch.")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # pyright: ignore[reportReturnType]


def _diagnosis(model: nn.Module, inputs: Sequence[torch.Tensor], step: int, value: float, surrogate: float) -> str:
    broken = [
        name
        for name, part in model.named_children()
        if any(p.grad is not None and not bool(full(p.grad).isfinite().all()) for p in part.parameters())
    ]
    term = f"the surrogate is {surrogate}" if not math.isfinite(surrogate) else "the surrogate is finite"
    gradients = f"the gradient of {', '.join(broken)} is not finite" if broken else "all gradients are finite"
    advice = (
        "Try a lower learning rate, a higher temperature, float32, or an objective with a bounded gradient (InfoNCE,"
        " JS, CalibratedNWJ)."
    )
    for number, t in enumerate(inputs, 1):
        rows = (~t.isfinite()).flatten(1).any(1).nonzero().flatten().tolist() if t.is_floating_point() else []
        if rows:
            shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
            advice = (
                f"Input {number} of the batch has NaN or infinite numbers in {len(rows)} of {len(t)} rows ({shown})."
            )
            break
    return (
        f"Training stopped at step {step + 1}: {term}, {gradients} (value {value:.4g} nats). The weights are those of"
        f" step {step} and checkpoints are untouched. {advice}"
    )


def warmup_cosine(steps: int, warmup: int = 0) -> Callable[[int], float]:
    """Schedule: linear warm-up over `warmup` steps, then a half cosine to 0 at `steps`. (Loshchilov & Hutter, 2017)"""

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return schedule
