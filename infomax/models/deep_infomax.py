"""Deep InfoMax: the summary of an image is compared with patches of its feature map. (Hjelm et al., 2019)"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infomax.critics import Critic
from infomax.errors import UserError, is_number, require_flags
from infomax.maps import MapEncoder, gives_maps_alone, of_maps, places_of
from infomax.models.base import Model, features_of_rows, projected, require_parts, sample_ids
from infomax.objectives import Objective
from infomax.scores import Sides


class DeepInfoMax(Model):
    """Maximises the MI of a summary with the patches of a feature map (local), with other views' summaries (global).

    encoder: images [n, c, h, w] -> features [n, d]; for the local term it must pass through a map [n, c, h, w], or
    [n, h, w, c] where timm says so, or tokens [n, t, c], of which a class token is no patch. projector: features ->
    summaries, what the critic scores. patch_projector: a place of the map,
    [n, c] -> what the critic scores, as wide as summaries where the critic is a cosine. critic, objective, microbatch,
    ring: as Model has them; each term has its own, made as these are.
    local, globally: which terms there are; local_weight, global_weight: their weights in the sum that is maximised.
    layer: the encoder's part, by name, whose output is the map ("layer2"); None: what timm's forward_features gives.
    A network that gives a map, or timm's features_only=True maps, and no features becomes an encoders.MapEncoder: its
    features are the mean over the last map, and the patches those of the last but one, of the only one, or of `layer`.
    Of two views a patch of one is compared with the summary of the other, and the global term with the other summary;
    of one view a patch with its own summary, as in the paper, and there is no global term. (Of two views: Bachman et
    al., 2019.)
    Raises UserError: no term, weights that are not positive, a layer that is not there, an encoder without a map.
    """

    encoder: nn.Module
    projector: nn.Module
    patch_projector: nn.Module | None

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        patch_projector: nn.Module | None,
        critic: Critic,
        objective: Objective,
        local: bool = True,
        globally: bool = True,
        local_weight: float = 1.0,
        global_weight: float = 1.0,
        layer: str | None = None,
        microbatch: int | None = None,
        ring: bool = False,
    ):
        require_parts(encoder=encoder, projector=projector)
        require_flags(local=local, globally=globally)
        encoder = of_maps(encoder, layer) if local or gives_maps_alone(encoder) else encoder
        networks: dict[str, Any] = {"encoder": encoder, "projector": projector, "patch_projector": patch_projector}
        super().__init__(critic, objective, microbatch, ring, **networks)
        if not (local or globally):
            raise UserError("Deep InfoMax needs a term: local=True, globally=True, or both.")
        if not all(is_number(weight) and 0 < weight < math.inf for weight in (local_weight, global_weight)):
            raise UserError(f"Weights of terms are positive numbers, not {local_weight!r} and {global_weight!r}.")
        if local and patch_projector is None:
            raise UserError(
                "The local term needs a patch_projector: from a place of the map to what the critic scores."
            )
        within = encoder.part(layer) if isinstance(encoder, MapEncoder) else layer
        if within is not None and within not in dict(encoder.named_modules()):
            whole = encoder.network if isinstance(encoder, MapEncoder) else encoder
            known = ", ".join(name for name, _ in whole.named_children())
            raise UserError(f"The encoder, a {type(whole).__name__}, has no part {layer!r}; its parts: {known}.")
        if local and within is None and not all(hasattr(encoder, f"forward_{way}") for way in ("features", "head")):
            raise UserError(
                f"The encoder, a {type(encoder).__name__}, shows no feature map for the local term, as timm's do by"
                " forward_features and forward_head: name the part whose output is one (layer=...), hand one that"
                " gives a map over in encoders.MapEncoder, or take local=False."
            )
        self._within = within
        self.local, self.globally, self.layer = local, globally, layer
        self.local_weight, self.global_weight = local_weight, global_weight
        both = local and globally
        self.local_critic = copy.deepcopy(critic) if both else None
        self.local_objective = copy.deepcopy(objective) if both else None

    def term(self, name: str) -> tuple[Critic, Objective]:
        if name == "local" and self.local_critic is not None and self.local_objective is not None:
            return self.local_critic, self.local_objective
        return self.critic, self.objective

    def sides(self, inputs: Sequence[Tensor], ids: Tensor | None) -> list[Sides]:
        """inputs: one or two views [n, c, h, w]; ids [n] -> a local and a global term, each by its name."""
        if len(inputs) not in (1, 2):
            raise UserError(f"Deep InfoMax takes one view or two; there are {len(inputs)}.")
        shapes = [list(view.shape[1:]) for view in inputs]
        if shapes[0] != shapes[-1]:
            raise UserError(f"Deep InfoMax encodes both views at once, in one shape; they have {shapes}.")
        views = len(inputs)
        found = self.encode(self._encode, *inputs)
        z = found[:views]
        ids = sample_ids(ids, z)
        terms = []
        if self.globally and views == 2:
            terms.append(Sides(z[0], z[1], ids, weight=self.global_weight, name="global"))
        if self.local:
            terms.append(self._local(z, found[views:], ids))
        if not terms:
            raise UserError("The global term compares two views, and there is one: take local=True.")
        return terms

    def _local(self, z: Sequence[Tensor], patches: Sequence[Tensor], ids: Tensor) -> Sides:
        """Patches [n, p, d] of each view as rows, summaries of all views as columns; many rows to one column."""
        n, places, views = len(z[0]), patches[0].shape[1], len(z)
        own = torch.arange(n, device=ids.device).repeat_interleave(places)
        # Patches of a view belong to the summary of the other one, or to their own where there is no other.
        columns = [own + n * ((view + 1) % views) for view in range(views)]
        return Sides(
            x=torch.cat([p.flatten(0, 1) for p in patches]), y=torch.cat(list(z)),
            ids=ids.repeat_interleave(places).repeat(views), column_ids=ids.repeat(views),
            positive=torch.cat(columns), weight=self.local_weight, name="local",
        )  # fmt: skip

    def _encode(self, *views: Tensor) -> tuple[Tensor, ...]:
        images = torch.cat(views)
        if not self.local:
            return tuple(projected(self.projector, features_of_rows(self.encoder, images)).chunk(len(views)))
        seen, places = self._map(images)
        assert self.patch_projector is not None
        z = projected(self.projector, seen)
        patches = projected(self.patch_projector, places.flatten(0, 1), "patch_projector")
        patches = patches.unflatten(0, places.shape[:2])
        return *z.chunk(len(views)), *patches.chunk(len(views))

    def _map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images [m, c, h, w] -> features [m, d] and the places of a map [m, p, c]."""
        if self._within is None:
            encoder: Any = self.encoder
            found = encoder.forward_features(images)
            places = places_of(encoder, found)  # before the head, which may not take what is none
            seen = encoder.forward_head(found, pre_logits=True).flatten(1)
            return seen, places
        caught: list[Any] = []
        part = self.encoder.get_submodule(self._within)

        def catch(module: nn.Module, given: Any, out: Any) -> None:
            # A copy: a layer after this one may work in place, as ReLU(inplace=True) does.
            caught[:] = [out.clone() if isinstance(out, Tensor) else out]

        hook = part.register_forward_hook(catch)
        try:
            seen = features_of_rows(self.encoder, images)
        finally:
            hook.remove()
        if not caught:
            raise UserError(f"The encoder's part {self._within!r} is not run by its forward, so it gives no map.")
        return seen, places_of(self.encoder, caught[0], self._within)
