"""Model, the base class: a subclass turns a batch into sides, a critic scores them, an objective reads the scores."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infomax.critics import Critic
from infomax.distributed import rank, world
from infomax.errors import MEETS_NONFINITE, UserError, is_count, is_number, require_flags
from infomax.models.grad_cache import encode_in_chunks
from infomax.models.trial import tried
from infomax.objectives import Objective
from infomax.scores import Scores, Sides
from infomax.scores.face import refuse_rows
from infomax.scores.layout import check_ids

Encode = Callable[..., tuple[Tensor, ...]]


class Model(nn.Module):
    """Base class of models: a subclass gives sides(inputs, ids), and the loss, its gradient and all processes follow.

    Every parameter of a subclass's constructor is kept as an attribute of the same name: so a checkpoint can describe
    the model, and im.load can make it again.

    critic: scores rows against columns. objective: reads the scores, in nats. networks: encoders and what follows them,
    by the names of the subclass's parameters; an optimiser sees them first, in that order. microbatch: samples that
    `encode` works on at once, twice, so that activations of no more are held; None for the whole batch. ring: across
    processes one side's features come around instead of being gathered: memory for n d numbers a process rather than
    N d, same value and gradient, up to a third slower. Raises UserError: microbatch < 1, or 1 with BatchNorm of rows.
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
        require_flags(ring=ring)
        if microbatch is not None and not is_count(microbatch):
            raise UserError(
                f"microbatch is a number of pairs, 1 or more, or None for the whole batch; not {microbatch!r}."
            )
        for name, network in networks.items():
            if not (network is None or isinstance(network, nn.Module)):
                raise UserError(f"{name} is a torch.nn.Module, such as infomax.encoder('resnet18'), not {network!r}.")
            self.add_module(name, network)
        for what, part, method, like in (
            ("critic", critic, "embed", "Cosine(0.1)"), ("objective", objective, "value_and_surrogate", "InfoNCE()")
        ):  # fmt: skip
            if isinstance(part, type) or not hasattr(part, method):
                raise UserError(f"{what} is an object such as infomax.{like}, and not {part!r}.")
        if microbatch == 1 and _normalises_rows(self):
            raise UserError(
                "A micro-batch of 1 has no variance, which BatchNorm divides by: take 2 or more, or parts without it."
            )
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

    def try_now(self, inputs: Sequence[Tensor]) -> None:
        """Raises UserError, which names the part, where sides() of inputs [n, ...] cannot be made.

        Tried in evaluation mode and without a gradient; the model stays as it was.
        """
        tried(self, self.sides, inputs)

    def try_later(self, inputs: Sequence[Tensor]) -> None:
        """Raises UserError for what a later step on such inputs [n, ...] would meet, and the first does not.

        Called in evaluation mode, before anything is written; the model stays as it was.
        """

    def fitted(self, saved: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """saved: a state by name, maybe an older version's -> the same as this version's load_state_dict takes it.

        Buffers of this model whose size only a forward tells get the saved one's.
        """
        return saved

    def share(self) -> None:
        """Keeps of what all processes need alike (a queue) this process's share alone.

        Called by all processes before the first step, and as often as one likes.
        """

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Within it the model is as one process would have it: with all of what processes share, not a part of it.

        Entered by all processes together: to be saved, for one.
        """
        yield

    def after_step(self) -> None:
        """What follows an optimiser step, and only a step that was made: momentum encoders and queues move here."""

    def forward(self, inputs: Sequence[Tensor], ids: Tensor | None = None) -> Tensor:
        """inputs [n, ...] each, ids [n] -> the weighted sum of the terms' values, 0-d in nats, with its gradient.

        ids say which sample a row shows, over all processes; without them all rows differ. Scores are computed in
        float32 whatever the autocast. Across processes, negatives span all of them and the mean over processes of what
        is returned is the value. Raises UserError: inputs that are no tensors, or of different lengths; terms without a
        name of their own, or of a weight that is no number of at least 0.
        """
        check_tensors(inputs)
        lengths = [len(t) for t in inputs]
        if len(set(lengths)) > 1:
            raise UserError(f"All inputs of a batch show the same samples, in one order; they have {lengths} rows.")
        check_ids("ids", ids, lengths[0], "a sample")
        found = self._terms_of(self._sides(inputs, ids))
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

    def _sides(self, inputs: Sequence[Tensor], ids: Tensor | None) -> Any:
        try:
            return self.sides(inputs, ids)
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception:
            if world() == 1:  # another process may be waiting within sides()
                self.try_now(inputs)  # names the part where it is the inputs that do not fit
            raise

    def _terms_of(self, found: Any) -> list[Sides]:
        """What sides() gave, as a list. Raises UserError for what is no Sides, or no list of them, by names."""
        terms = [found] if isinstance(found, Sides) else found
        kind = type(self).__name__
        if not isinstance(terms, list | tuple) or not terms or not all(isinstance(each, Sides) for each in terms):
            shown = "an empty list" if isinstance(terms, list | tuple) and not terms else f"a {type(found).__name__}"
            if isinstance(terms, list | tuple) and terms:
                shown += f" of {', '.join(dict.fromkeys(type(each).__name__ for each in terms))}"
            raise UserError(f"{kind}.sides gives one Sides, or a list of one a term; not {shown}.")
        names = [each.name for each in terms]
        if len(names) > 1 and (len(set(names)) < len(names) or "" in names):
            raise UserError(
                f"{kind}.sides gives {len(names)} terms named {', '.join(map(repr, names))}: each needs a name of its"
                " own, by which its value is reported (Sides(..., name=...))."
            )
        for each in terms:
            if not (is_number(each.weight) and 0 <= each.weight < math.inf):
                raise UserError(
                    f"The weight of {kind}'s term {each.name!r} is a finite number of at least 0, not {each.weight!r}."
                )
        return list(terms)

    def encode(self, encode: Encode, *inputs: Tensor) -> tuple[Tensor, ...]:
        """encode(*inputs), inputs [n, ...] each, -> features [n, ...] each, in micro-batches where these are set.

        encode treats samples one by one, but for BatchNorm, which normalises each micro-batch as it would each
        process's part; encoders without it are exact. Micro-batches are of one size, but for the last, which may be
        smaller; where it would be 1 sample, all of them are of about one size.
        """
        n, size = len(inputs[0]), self.microbatch
        if size is None or size >= n:
            return encode(*inputs)
        sizes = [len(part) for part in inputs[0].split(size)]
        if sizes[-1] == 1:  # of which BatchNorm could say nothing: as many micro-batches, of about one size
            sizes = [len(part) for part in inputs[0].tensor_split(len(sizes))]
            if sizes[-1] == 1 and self.training and _normalises_rows(self):
                raise UserError(
                    f"{n} samples in micro-batches of {size} leave one by itself, of which BatchNorm has no variance."
                )
        return encode_in_chunks(encode, inputs, sizes, self)


def require_parts(**parts: Any) -> None:
    """Raises UserError for one of `parts`, by its name, that is None, where a model cannot be without it."""
    for name, part in parts.items():
        if part is None:
            raise UserError(f"There is no {name}: give torch.nn.Identity() to take what comes as it is.")


def check_tensors(inputs: Sequence[Any]) -> None:
    """Raises UserError for inputs of a batch that are not finite tensors [n, ...], one or more, of n > 0 samples."""
    if isinstance(inputs, Tensor):
        raise UserError("The inputs of a batch are several tensors, and not one: give them as a list, [view1, view2].")
    kinds = [type(t).__name__ for t in inputs if not isinstance(t, Tensor) or t.ndim == 0]
    if kinds or len(inputs) == 0:
        shown = f"there is a {kinds[0]}" if kinds else "there is none"
        raise UserError(
            f"The inputs of a batch are tensors [n, ...], one or more, and {shown}; give a dictionary's tensors one by"
            " one, or let an encoder of your own take one tensor apart."
        )
    if all(len(t) == 0 for t in inputs):
        raise UserError("The batch is empty: it has 0 samples.")
    for number, t in enumerate(inputs, 1):
        # On a GPU nothing is asked, for that is to wait for it. A sum is the cheapest to ask.
        if (
            not (MEETS_NONFINITE.get() or t.is_cuda)
            and t.is_floating_point()
            and not math.isfinite(float(t.detach().sum()))
        ):
            refuse_rows(f"Input {number} of the batch", ~t.isfinite())


def sample_ids(ids: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
    """The sample of each row of a batch [n], over all processes; where none are given all rows differ."""
    n = len(inputs[0])
    return torch.arange(n, device=inputs[0].device) + n * rank() if ids is None else ids


def _normalises_rows(model: nn.Module) -> bool:
    """Whether a part has BatchNorm of rows of features; of signals, beside Conv1d, one has a variance over time."""
    of_rows = [part for part in model.children() if not any(isinstance(each, nn.Conv1d) for each in part.modules())]
    return any(isinstance(each, nn.BatchNorm1d) for part in of_rows for each in part.modules())


def _shown(found: Any) -> str:
    return f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"


def projected(projector: nn.Module, features: Tensor, name: str = "projector") -> Tensor:
    """projector(features [n, d]) -> [n, ...], what a critic scores. Raises UserError for what is no tensor of n rows.

    name: of the part, as the message has it.
    """
    if projector is None:
        raise UserError(f"There is no {name}: give torch.nn.Identity() to score features as they are.")
    found = projector(features)
    if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != len(features):
        raise UserError(
            f"The {name}, a {type(projector).__name__}, returns {_shown(found)} for {len(features)} rows of features,"
            " where one tensor with a row for each is needed, [n, d]: take one entry of a dictionary or tuple."
        )
    return found


def features_of_rows(encoder: nn.Module, *inputs: Tensor) -> Tensor:
    """encoder(*inputs) -> [n, d]. Raises UserError for what is no row of features a sample."""
    found = encoder(*inputs)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(inputs[0]):
        raise UserError(
            f"The encoder, a {type(encoder).__name__}, returns {_shown(found)} for {len(inputs[0])} samples, where one"
            " row of features a sample is needed, [n, d]: pool a map, as encoders.MapEncoder does, or take one entry of"
            " a dictionary or tuple."
        )
    return found


def _weighted(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    if len(values) == 1 and weights[0] == 1:
        return values[0]
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum()
