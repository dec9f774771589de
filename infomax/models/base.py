"""Model, the base class: a subclass turns a batch into sides, a critic scores them, an objective reads the scores."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from infomax.critics import Critic
from infomax.errors import UserError
from infomax.models.grad_cache import encode_in_chunks
from infomax.objectives import Objective
from infomax.scores import Scores, Sides

Encode = Callable[..., tuple[Tensor, ...]]


class Model(nn.Module):
    """Base class of models: a subclass gives sides(inputs, ids), and the loss, its gradient and all processes follow.

    Every parameter of a subclass's constructor is kept as an attribute of the same name: so a checkpoint can describe
    the model, and im.load can make it again.

    critic: scores rows against columns. objective: reads the scores, in nats. networks: encoders and what follows them,
    by the names of the subclass's parameters; an optimiser sees them first, in that order. microbatch: samples that
    `encode` works on at once, twice, so that activations of no more are held; None for the whole batch. ring: across
    processes one side's features come around instead of being gathered: memory for n d numbers a process rather than
    N d, same value and gradient, up to a third slower. Raises UserError: microbatch < 1.
    """

    def __init__(
        self,
        critic: Critic,
        objective: Objective,
        microbatch: int | None = None,
        ring: bool = False,
        **networks: nn.Module | None,
    ):
        super().__init__()
        if microbatch is not None and microbatch < 1:
            raise UserError(
                f"microbatch is a number of pairs, 1 or more, or None for the whole batch; not {microbatch}."
            )
        for name, network in networks.items():
            self.add_module(name, network)
        self.critic, self.objective = critic, objective
        self.microbatch, self.ring = microbatch, ring
        # Of the last forward, detached: what a Step reports beside its value.
        self.surrogate: Tensor | None = None
        self.terms: dict[str, Tensor] = {}  # by name, where there are several
        self.ceiling = math.nan  # log of the number of candidates that a row's positive is told from, nats

    def sides(self, inputs: Sequence[Tensor], ids: Tensor | None) -> Sides | list[Sides]:
        """inputs [n, ...] each, ids [n] -> what is scored: one `Sides`, or one a term, with name and weight."""
        raise TypeError(f"{type(self).__name__} defines no sides(inputs, ids).")

    def term(self, name: str) -> tuple[Critic, Objective]:
        """The critic and the objective of a term, by the name that its `Sides` has."""
        return self.critic, self.objective

    def check_batch(self, size: int) -> None:
        """Raises UserError for a global batch of `size` samples that the model cannot be trained with."""

    def after_step(self) -> None:
        """What follows an optimiser step, and only a step that was made: momentum encoders and queues move here."""

    def forward(self, inputs: Sequence[Tensor], ids: Tensor | None = None) -> Tensor:
        """inputs [n, ...] each, ids [n] -> the weighted sum of the terms' values, 0-d in nats, with its gradient.

        ids say which sample a row shows, over all processes; without them all rows differ. Scores are computed in
        float32 whatever the autocast. Across processes, negatives span all of them and the mean over processes of what
        is returned is the value. Raises UserError: inputs of different lengths.
        """
        lengths = [len(t) for t in inputs]
        if len(set(lengths)) > 1:
            raise UserError(f"All inputs of a batch show the same samples, in one order; they have {lengths} rows.")
        found = self.sides(inputs, ids)
        found = [found] if isinstance(found, Sides) else found
        values, surrogates, ceiling = [], [], 0.0
        with torch.autocast(found[0].x.device.type, enabled=False):
            for each in found:
                critic, objective = self.term(each.name)
                scores = Scores.of(critic, each, ring=self.ring)
                value, surrogate = objective.value_and_surrogate(scores)
                values.append(value)
                surrogates.append(surrogate)
                ceiling += each.weight * math.log(scores.negative.per_positive + 1)
            weights = [each.weight for each in found]
            self.terms = {}
            if len(found) > 1:
                self.terms = {each.name: value.detach() for each, value in zip(found, values, strict=True)}
            self.surrogate, self.ceiling = _weighted(weights, surrogates).detach(), ceiling
            return _weighted(weights, values)

    def encode(self, encode: Encode, *inputs: Tensor) -> tuple[Tensor, ...]:
        """encode(*inputs), inputs [n, ...] each, -> features [n, ...] each, in micro-batches where these are set.

        encode treats samples one by one, but for BatchNorm, which normalises each micro-batch as it would each
        process's part; encoders without it are exact.
        """
        if self.microbatch is None or self.microbatch >= len(inputs[0]):
            return encode(*inputs)
        return encode_in_chunks(encode, inputs, self.microbatch, self)


def features_of_rows(encoder: nn.Module, *inputs: Tensor) -> Tensor:
    """encoder(*inputs) -> [n, d]. Raises UserError for what is no row of features a sample."""
    found = encoder(*inputs)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(inputs[0]):
        shown = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UserError(
            f"The encoder, a {type(encoder).__name__}, returns {shown} for {len(inputs[0])} samples, where one row of"
            " features a sample is needed, [n, d]: pool a map, or take one entry of a dictionary or tuple."
        )
    return found


def _weighted(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    if len(values) == 1 and weights[0] == 1:
        return values[0]
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum()
