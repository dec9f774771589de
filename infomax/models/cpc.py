"""CPC: a context of earlier patches or times predicts the features of later ones. (van den Oord et al., 2018)"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infomax.critics import Critic
from infomax.distributed import rank
from infomax.errors import UserError
from infomax.models.base import Model, features_of_rows
from infomax.objectives import Objective
from infomax.scores import Sides


class CPC(Model):
    """Maximises the MI of a context with the features of later places: rows of an image's patches, or times.

    encoder: of images, a patch [n, c, patch, patch] -> features [n, d]; of sequences [n, time, channels] -> features
    [n, t, d], a place each. context: features [n, t, d] -> contexts [n, t, d_context], each of the places up to it;
    infomax.encoders.CausalGRU is one. critic: scores contexts against features, such as Bilinear(d_context, d); every
    step ahead has its own, made as this is, and its own objective. objective, microbatch, ring: as Model has them.
    steps: how many places ahead are predicted, 1 to steps; the value is the mean over them. patch, stride: side of an
    image's patches and the distance of two of them, in pixels; a column of the grid is read from the top, and what is
    predicted lies steps rows below. patch=None: inputs are sequences.
    Negatives of a place are all other places, of other samples and of its own. All views of a sample are read.
    Raises UserError: steps below 1, a stride without a patch, patches larger than the image, fewer rows or times than
    are predicted.
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
        for name, size in (("steps", steps), ("patch", patch), ("stride", stride)):
            if size is not None and (not isinstance(size, int) or size < 1):
                raise UserError(f"CPC's {name} is a whole number of at least 1, not {size!r}.")
        if (patch is None) != (stride is None):
            raise UserError("Patches need a side and a distance: give patch and stride both, or neither of sequences.")
        self.steps, self.patch, self.stride = steps, patch, stride
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
        """inputs: views [n, c, h, w] or sequences [n, time, channels]; ids [n] -> a term a step ahead, "ahead1", ..."""
        n = len(inputs[0])
        ids = torch.arange(n, device=inputs[0].device) + n * rank() if ids is None else ids
        z, contexts = (torch.cat(parts) for parts in self._of_views(inputs))
        places, columns = z.shape[2], z.shape[1]
        if places <= self.steps:
            what = "rows of patches" if self.patch is not None else "times"
            raise UserError(
                f"CPC predicts {self.steps} steps ahead and there are {places} {what}: take fewer steps, smaller"
                " patches or a smaller stride."
            )
        # A name for each place of each sample, so that all other places are negatives.
        names = ids.repeat(len(inputs))[:, None, None] * (places * columns)
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
        contexts = self.context(z.flatten(0, 1))
        return z, contexts.unflatten(0, z.shape[:2])

    def _times(self, sequences: Tensor) -> Tensor:
        z = self.encoder(sequences)
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
        cut = images.unfold(2, self.patch, self.stride).unfold(3, self.patch, self.stride)  # [n, c, rows, columns, ...]
        n, _, rows, columns = cut.shape[:4]
        patches = cut.permute(0, 3, 2, 1, 4, 5).reshape(n * columns * rows, -1, self.patch, self.patch)
        return features_of_rows(self.encoder, patches).view(n, columns, rows, -1)
