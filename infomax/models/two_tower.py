"""Two towers: one encoder for each of two modalities, any objective between them. (after Radford et al., 2021)"""

from collections.abc import Sequence

from torch import Tensor, nn

from infomax.critics import Critic
from infomax.errors import UserError
from infomax.models.base import Model, features_of_rows, projected, require_parts
from infomax.objectives import Objective
from infomax.scores import Sides


class TwoTower(Model):
    """Maximises the MI of two modalities of a sample, such as image and text, or two sensors.

    encoder_x, encoder_y: x [n, ...] and y [n, ...] -> features [n, d_x], [n, d_y]. projector_x, projector_y: features
    -> what the critic scores. critic, objective, microbatch, ring: as Model has them; CLIP's loss is
    InfoNCE(symmetric=True) with Cosine(0.07, learn=True).
    """

    encoder_x: nn.Module
    encoder_y: nn.Module
    projector_x: nn.Module
    projector_y: nn.Module

    def __init__(
        self,
        encoder_x: nn.Module,
        encoder_y: nn.Module,
        projector_x: nn.Module,
        projector_y: nn.Module,
        critic: Critic,
        objective: Objective,
        microbatch: int | None = None,
        ring: bool = False,
    ):
        super().__init__(
            critic, objective, microbatch, ring,
            encoder_x=encoder_x, encoder_y=encoder_y, projector_x=projector_x, projector_y=projector_y,
        )  # fmt: skip
        require_parts(encoder_x=encoder_x, encoder_y=encoder_y, projector_x=projector_x, projector_y=projector_y)

    def sides(self, inputs: Sequence[Tensor], ids: Tensor | None) -> Sides:
        """inputs: x [n, ...] and y [n, ...]; ids [n] -> n rows and n columns. Raises UserError: towers whose widths
        the critic cannot compare."""
        if len(inputs) != 2:
            raise UserError(f"Two towers take two modalities; there are {len(inputs)} inputs.")
        zx, zy = self.encode(self._encode, *inputs)
        if hasattr(self.critic, "embed_alike") and zx.shape[1] != zy.shape[1]:
            raise UserError(
                f"The towers give {zx.shape[1]} and {zy.shape[1]} numbers, and {type(self.critic).__name__} compares"
                " rows of one width: give the projectors one output width, or take Bilinear."
            )
        return Sides(zx, zy, ids)

    def features(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, ...], y [n, ...] -> what the critic scores, [n, d] each."""
        zx, zy = self._encode(x, y)
        return zx, zy

    def _encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (
            projected(self.projector_x, features_of_rows(self.encoder_x, x), "projector_x"),
            projected(self.projector_y, features_of_rows(self.encoder_y, y), "projector_y"),
        )
