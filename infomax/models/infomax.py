"""InfoMax: an encoder, a projector, a critic and an objective. Two views in, nats out; what Accelerate wraps."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infomax.critics import Critic
from infomax.errors import UserError
from infomax.models.grad_cache import encode_in_chunks
from infomax.objectives import Objective
from infomax.scores import Scores


class InfoMax(nn.Module):
    """Trains an encoder by maximising MI between the projections of two views.

    ntxent=False: N x N scores across views, s[i, j] = critic(z1_i, z2_j). ntxent=True: NT-Xent's 2N x 2N scores of all
    views against all, where neither a view nor its other view is a negative of it. (Chen et al., 2020)

    microbatch: encode so many pairs at a time, twice, and hold activations of no more: N is then bounded by what its
    features take, and the gradient is that of the whole batch. BatchNorm normalises each micro-batch, as it would each
    process's part; encoders without it are exact. ring: across processes one side's features come around instead of
    being gathered: memory for n d numbers a process rather than N d, same value and gradient, up to a third slower.
    Raises UserError: microbatch < 1.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        critic: Critic,
        objective: Objective,
        ntxent: bool = False,
        microbatch: int | None = None,
        ring: bool = False,
    ):
        super().__init__()
        if microbatch is not None and microbatch < 1:
            raise UserError(
                f"microbatch is a number of pairs, 1 or more, or None for the whole batch; not {microbatch}."
            )
        self.encoder, self.projector, self.critic, self.objective = encoder, projector, critic, objective
        self.ntxent, self.microbatch, self.ring = ntxent, microbatch, ring
        self.surrogate: Tensor | None = None  # of the last forward, detached: what a Step reports beside its value

    def forward(
        self, view1: Float[Tensor, "n ..."], view2: Float[Tensor, "n ..."], ids: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, ""]:
        """view1, view2 [n, c, h, w], ids [n] -> the objective's value, 0-d in nats, with its surrogate's gradient.

        ids say which sample a row shows, over all processes; without them all rows differ. Scores are computed in
        float32 whatever the autocast. Across processes, negatives span all of them and the mean over processes of
        what is returned is the value. Raises UserError: views of different shapes.
        """
        if view1.shape != view2.shape:
            raise UserError(f"The two views must have one shape; they have {list(view1.shape)}, {list(view2.shape)}.")
        if self.microbatch is None or self.microbatch >= len(view1):
            z1, z2 = self._encode(view1, view2)
        else:
            z1, z2 = encode_in_chunks(self._encode, view1, view2, self.microbatch, [self.encoder, self.projector])
        make = Scores.of_views if self.ntxent else Scores
        with torch.autocast(z1.device.type, enabled=False):
            nats, self.surrogate = self.objective.value_and_surrogate(make(self.critic, z1, z2, ids, ring=self.ring))
        return nats

    def _encode(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
        # One forward of both views: two through DistributedDataParallel before a backward would break BatchNorm.
        z1, z2 = self.projector(self.encoder(torch.cat([view1, view2]))).chunk(2)
        return z1, z2
