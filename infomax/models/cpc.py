"""CPC: a context of earlier patches or times predicts the features of later ones. (van den Oord et al., 2018)"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infomax.critics import Critic
from infomax.errors import UserError, is_count
from infomax.models.base import Model, features_of_rows, require_parts, sample_ids
from infomax.objectives import Objective
from infomax.scores import Sides

UNSEEN = 0.05  # part of the pixels that may lie in no patch, as of those that an encoder may not see


class CPC(Model):
    """Maximises the MI of a context with the features of later places: rows of an image's patches, or times.

    encoder: of images, a patch [n, c, patch, patch] -> features [n, d]; of sequences [n, time, channels] -> features
    [n, t, d], a place each, by its method `places` where it has one, as encoders.StridedConv1d, which takes signals
    [n, channels, time]. context: features [n, t, d] -> contexts [n, t, d_context], each of the places up to it;
    infomax.encoders.CausalGRU is one. critic: scores contexts against features, such as Bilinear(d_context, d); every
    step ahead has its own, made as this is, and its own objective. objective, microbatch, ring: as Model has them.
    steps: how many places ahead are predicted, 1 to steps; the value is the mean over them. patch, stride: side of an
    image's patches and the distance of two of them, in pixels; a column of the grid is read from the top, and what is
    predicted lies steps rows below. patch=None: inputs are sequences.
    Candidates of a context `ahead` steps away are the places from the ahead-th on, all that can be so far ahead of one,
    of all samples; its negatives are all of these but the one it predicts, its own sample's others among them. All
    views of a sample are read.
    Raises UserError: steps below 1, a stride without a patch, patches larger than the image or that leave out more than
    5 % of it, fewer rows or times than are predicted, a context that gives no place one, or reads later places, which
    is tried once.
    """

    encoder: nn.Module
    context: nn.Module
    later: nn.ModuleList

    def __init__(
        self,
        encoder: nn.Module,
        context: nn.Module,
        critic: Critic,
        objective: Objective,
        steps: int = 2,
        patch: int | None = None,
        stride: int | None = None,
        microbatch: int | None = None,
        ring: bool = False,
    ):
        super().__init__(critic, objective, microbatch, ring, encoder=encoder, context=context)
        require_parts(encoder=encoder, context=context)
        for name, size in (("steps", steps), ("patch", patch), ("stride", stride)):
            if size is not None and not is_count(size):
                raise UserError(f"CPC's {name} is a whole number of at least 1, not {size!r}.")
        if (patch is None) != (stride is None):
            raise UserError("Patches need a side and a distance: give patch and stride both, or neither of sequences.")
        self.steps, self.patch, self.stride = steps, patch, stride
        self._causal = False  # whether the context was tried
        # One pair of critic and objective a step ahead; the first step's are the constructor's own.
        self.later = nn.ModuleList(
            nn.ModuleList([copy.deepcopy(critic), copy.deepcopy(objective)]) for _ in range(steps - 1)
        )

    def term(self, name: str) -> tuple[Critic, Objective]:
        ahead = int(name.removeprefix("ahead"))
        if ahead == 1:
            return self.critic, self.objective
        critic, objective = self.later[ahead - 2]  # type: ignore[misc]
        return critic, objective

    def sides(self, inputs: Sequence[Tensor], ids: Tensor | None) -> list[Sides]:
        """inputs: views [n, c, h, w], or sequences as the encoder takes them; ids [n] -> a term a step ahead, "ahead1",
        "ahead2", ..."""
        ids = sample_ids(ids, inputs)
        z, contexts = (torch.cat(parts) for parts in self._of_views(inputs))
        places, columns = z.shape[2], z.shape[1]
        if places <= self.steps:
            what = "rows of patches" if self.patch is not None else "times"
            raise UserError(
                f"CPC predicts {self.steps} steps ahead and there are {places} {what}: take fewer steps, smaller"
                " patches or a smaller stride."
            )
        # A name for each place of each sample, so that all other places are negatives. Where a product passes int64 it
        # goes round, and times an odd number no bit of an id is lost.
        names = ids.repeat(len(inputs))[:, None, None] * (places * columns | 1)
        names = names + torch.arange(columns * places, device=ids.device).view(columns, places)
        terms = []
        for ahead in range(1, self.steps + 1):
            x, y = contexts[:, :, :-ahead].flatten(0, 2), z[:, :, ahead:].flatten(0, 2)
            of = names[:, :, ahead:].flatten()
            terms.append(Sides(x, y, of, weight=1 / self.steps, name=f"ahead{ahead}"))
        return terms

    def _of_views(self, inputs: Sequence[Tensor]) -> list[list[Tensor]]:
        found = [self.encode(self._encode, view) for view in inputs]
        return [list(parts) for parts in zip(*found, strict=True)]

    def _encode(self, given: Tensor) -> tuple[Tensor, ...]:
        """[n, ...] -> features [n, columns, places, d] and their contexts [n, columns, places, d_context]."""
        z = self._patches(given) if self.patch is not None else self._times(given)
        contexts = self._contexts(z.flatten(0, 1))
        if not self._causal:
            self._refuse_future(z[0, :1])
            self._causal = True
        return z, contexts.unflatten(0, z.shape[:2])

    def _contexts(self, z: Tensor) -> Tensor:
        """[m, t, d] -> [m, t, d_context]."""
        found = self.context(z)
        if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[:2] != z.shape[:2]:
            shown = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise UserError(
                f"The context, a {type(self.context).__name__}, returns {shown} for features of {list(z.shape)}, where"
                f" one context a place is needed, [{len(z)}, {z.shape[1]}, d]: take one entry of a tuple, as"
                " infomax.encoders.CausalGRU does of torch's GRU."
            )
        return found

    @torch.no_grad()
    def _refuse_future(self, like: Tensor) -> None:
        """Raises UserError for a context that changes where only later places do: what it predicts it has then seen.

        like [1, t, d]: features, of whose shape, dtype and device some are drawn.
        """
        t = like.shape[1]
        if t < 2:
            return
        generator = torch.Generator().manual_seed(0)
        one, other = (torch.randn(1, *like.shape[1:], generator=generator).to(like) for _ in range(2))
        places = torch.arange(t, device=like.device)
        cut = places[:-1, None] + 1  # row k: from place k + 1 on the other features
        later = torch.where((places >= cut)[..., None], other, one)
        modes = [(module, module.training) for module in self.context.modules()]
        devices = [like.device] if like.is_cuda else []
        try:
            self.context.eval()
            with torch.random.fork_rng(devices), torch.autocast(like.device.type, enabled=False):
                plain, changed = self._contexts(torch.cat([one, later])).double().split([1, t - 1])
        finally:
            for module, training in modes:
                module.training = training
        apart = ((changed - plain).abs() * (places < cut)[..., None]).amax()
        rounding = torch.finfo(like.dtype).eps ** 0.5 * plain.abs().amax()
        if bool(apart > rounding):
            raise UserError(
                f"The context, a {type(self.context).__name__}, reads later places than its own, which it is to"
                " predict: InfoNCE would measure nothing. Take one that reads from the start, as"
                " infomax.encoders.CausalGRU does, or mask what is later."
            )

    def _times(self, sequences: Tensor) -> Tensor:
        # Those that give places apart from features [n, d] are probed as they are.
        z = getattr(self.encoder, "places", self.encoder)(sequences)
        if not isinstance(z, Tensor) or z.ndim != 3 or len(z) != len(sequences):
            shown = f"shape {list(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise UserError(
                f"The encoder of sequences, a {type(self.encoder).__name__}, must give features [n, t, d], and returns"
                f" {shown}."
            )
        return z[:, None]

    def _patches(self, images: Tensor) -> Tensor:
        assert self.patch is not None and self.stride is not None
        if images.ndim != 4 or min(images.shape[2:]) < self.patch:
            raise UserError(
                f"Patches of {self.patch} pixels do not fit into images of {list(images.shape[1:])} (channels, height,"
                " width)."
            )
        seen = [self._seen(side) for side in images.shape[2:]]
        whole = images.shape[2] * images.shape[3]
        if seen[0] * seen[1] < (1 - UNSEEN) * whole:
            raise UserError(
                f"Patches of {self.patch} pixels, one every {self.stride}, leave out"
                f" {1 - seen[0] * seen[1] / whole:.0%} of the pixels of {list(images.shape[1:])} (channels, height,"
                f" width); {self._advice(images.shape[2:])}."
            )
        cut = images.unfold(2, self.patch, self.stride).unfold(3, self.patch, self.stride)  # [n, c, rows, columns, ...]
        n, _, rows, columns = cut.shape[:4]
        patches = cut.permute(0, 3, 2, 1, 4, 5).reshape(n * columns * rows, -1, self.patch, self.patch)
        return features_of_rows(self.encoder, patches).view(n, columns, rows, -1)

    def _seen(self, side: int) -> int:
        """How many of so many pixels in a row lie in some patch."""
        assert self.patch is not None and self.stride is not None
        return (side - self.patch) // self.stride * min(self.stride, self.patch) + self.patch

    def _advice(self, sides: Sequence[int]) -> str:
        """The largest stride, no longer than this one, with which patches see every pixel and enough rows are ahead."""
        assert self.patch is not None and self.stride is not None
        spare = [side - self.patch for side in sides]
        strides = range(min(self.patch, self.stride), 0, -1)
        fits = [s for s in strides if all(more % s == 0 for more in spare) and spare[0] // s + 1 > self.steps]
        return f"with stride={fits[0]} they see all" if fits else "take smaller patches"
