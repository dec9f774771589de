"""InfoMax: an encoder, a projector, a critic and an objective. Two or more views in, nats out."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from infomax.critics import Critic
from infomax.errors import UserError, is_count, require_flags
from infomax.models.base import Model, features_of_rows, projected, require_parts, sample_ids
from infomax.objectives import Objective
from infomax.scores import Sides


class InfoMax(Model):
    """Trains an encoder by maximising MI between the projections of a sample's views: SimCLR with any objective.

    encoder: images [n, c, h, w] -> features [n, d]. projector: features -> what the critic scores. critic, objective:
    as Model has them.
    ntxent=False: scores across views, s[i, j] = critic(z1_i, z2_j). Of more than two views every ordered pair of views
    that is in `targets` is scored, all in one walk. ntxent=True: NT-Xent's 2N x 2N scores of two views, all against
    all, where neither a view nor its other view is a negative of it. (Chen et al., 2020)
    microbatch: encode so many samples at a time, twice, and hold activations of no more: N is then bounded by what its
    features take, and the gradient is that of the whole batch. ring: as Model has it.
    targets: of more than two views, how many are columns, from the first; the others are rows alone, as the small
    crops of multi-crop are (Caron et al., 2020). None: all of them.
    Raises UserError: microbatch < 1, targets < 1; no encoder or projector.
    """

    encoder: nn.Module
    projector: nn.Module

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        critic: Critic,
        objective: Objective,
        ntxent: bool = False,
        microbatch: int | None = None,
        ring: bool = False,
        targets: int | None = None,
    ):
        super().__init__(critic, objective, microbatch, ring, encoder=encoder, projector=projector)
        require_parts(encoder=encoder, projector=projector)
        require_flags(ntxent=ntxent)
        if targets is not None and not is_count(targets):
            raise UserError(
                f"targets is how many of the views are columns, 1 or more, or None for all; not {targets!r}."
            )
        self.ntxent, self.targets = ntxent, targets

    def forward(
        self,
        view1: Float[Tensor, "n ..."] | Sequence[Tensor],
        view2: Shaped[Tensor, "n ..."] | None = None,
        ids: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """view1, view2 [n, c, h, w], or all views as one sequence, ids [n] -> 0-d in nats: as Model.forward.

        After a sequence the second is ids, as other models take them. Raises UserError: two views of different shapes.
        """
        if view2 is not None and ids is None and not isinstance(view1, Tensor):
            view2, ids = None, view2
        return super().forward(view1 if view2 is None else (view1, view2), ids)  # type: ignore[arg-type]

    def sides(self, inputs: Sequence[Tensor], ids: Tensor | None) -> Sides:
        """inputs: the views [n, c, h, w], two or more; ids [n] -> the sides of all pairs of views."""
        if len(inputs) < 2:
            raise UserError(f"InfoMax compares views of a sample and needs two or more; there is {len(inputs)}.")
        if len(inputs) == 2:
            view1, view2 = inputs
            if view1.shape != view2.shape:
                raise UserError(
                    f"The two views must have one shape; they have {list(view1.shape)}, {list(view2.shape)}."
                )
            z1, z2 = self.encode(self._encode, view1, view2)
            return self._all_views(z1, z2, ids) if self.ntxent else Sides(z1, z2, ids)
        if self.ntxent:
            raise UserError(f"NT-Xent is of two views, and there are {len(inputs)}; take ntxent=False.")
        return self._pairs_of_views(self.encode(self._encode, *inputs), ids)

    def features(self, *views: Tensor) -> tuple[Tensor, ...]:
        """views [n, ...] -> what the critic scores, [n, d] each."""
        return self._encode(*views)

    def _encode(self, *views: Tensor) -> tuple[Tensor, ...]:
        # One forward of the views of one size: two through DistributedDataParallel before a backward would break
        # BatchNorm.
        found: list[Tensor] = []
        for _, alike in itertools.groupby(views, key=lambda view: view.shape[1:]):
            group = list(alike)
            found.extend(projected(self.projector, features_of_rows(self.encoder, torch.cat(group))).chunk(len(group)))
        return tuple(found)

    @staticmethod
    def _all_views(z1: Tensor, z2: Tensor, ids: Tensor | None) -> Sides:
        n = len(z1)
        both = torch.cat([z1, z2])  # one tensor on both sides: the engine visits half of a symmetric matrix
        ids = sample_ids(ids, (z1,))
        names = torch.cat([ids, ids])
        return Sides(both, both, names, names, torch.arange(2 * n, device=z1.device).roll(-n))

    def _pairs_of_views(self, z: Sequence[Tensor], ids: Tensor | None) -> Sides:
        """Each view's row once for every other view that is a column: many rows to one column, one walk."""
        n, columns = len(z[0]), len(z) if self.targets is None else min(self.targets, len(z))
        ids = sample_ids(ids, z)
        pairs = [(row, column) for row in range(len(z)) for column in range(columns) if row != column]
        own = torch.arange(n, device=z[0].device)
        return Sides(
            x=torch.cat([z[row] for row, _ in pairs]),
            y=torch.cat(list(z[:columns])),
            ids=ids.repeat(len(pairs)),
            column_ids=ids.repeat(columns),
            positive=torch.cat([own + column * n for _, column in pairs]),
        )
