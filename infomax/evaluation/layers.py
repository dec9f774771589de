"""An encoder's layers as rows: features of images and of their views, summaries of maps, principal components."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from infomax.errors import UserError, nearest
from infomax.estimation import Estimate, estimate_splits
from infomax.evaluation.features import features

if TYPE_CHECKING:
    from infomax.data import Split
    from infomax.data.views import AnyViews


COMPONENTS = 64  # of a layer, at most
COLUMNS = 1024  # of a layer before that, about: feature maps are averaged to fewer places
STAGES = 3  # of an encoder's, in the chain
OWN = ("pixels", "features", "projection")  # names of layers that are no submodules


def estimated_on(
    x: list[Tensor],
    y: list[Tensor],
    ids: list[Tensor],
    given: dict[str, Any],
    how: Callable[..., Estimate] = estimate_splits,
) -> Estimate:
    """Of the fit, select and report parts of two sides."""
    return how(*zip(x, y, ids, strict=True), **given)


class Layers(nn.Module):
    """An encoder with what it passes through: images -> pixels, stages, features and projection in one row each.

    Maps [b, c, h, w] are averaged to fewer places, tokens [b, t, c] to their first and their mean: functions of the
    layer, so that MI with them is at most the layer's.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module | None, names: Sequence[str] | None = None):
        """names: submodules whose outputs are layers, in any order; by default stages that timm names.

        Raises UserError: a name that the encoder has not.
        """
        super().__init__()
        self.encoder, self.projector = encoder, projector
        self.stages: dict[str, int | None] = dict(_stages(encoder)) if names is None else dict.fromkeys(names)
        known = [name for name, _ in encoder.named_modules(remove_duplicate=False) if name]
        for name in self.stages:
            if name not in known:
                raise UserError(f"The encoder has no layer {name!r}.{nearest(name, known)}")
        self.asked = names is not None
        self.order: list[str] | None = None  # of the stages, as the first images passed them
        self.widths: dict[str, int] = {}

    def forward(self, images: Tensor) -> Tensor:
        """images [b, c, h, w] or [b, c, time] -> [b, d]: pixels, stages in the order in which they first end, features,
        projection. Of a stage that runs several times, it is the first output.

        Raises UserError: a stage that was asked for and does not run, for all images or some; one that gives no tensor.
        """
        caught: dict[str, Tensor] = {}

        def catch(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, given: Any, out: Any) -> None:
                if name not in caught:  # a copy: what comes next may write into it, as an in-place ReLU does
                    caught[name] = out.clone() if isinstance(out, Tensor) else out

            return hook

        rows = {"pixels": _summary(images, images.shape[1])}
        hooks = [self.encoder.get_submodule(name).register_forward_hook(catch(name)) for name in self.stages]
        try:
            z = self.encoder(images).flatten(1)
        finally:
            for hook in hooks:
                hook.remove()
        if self.asked and (unused := [name for name in self.stages if name not in caught]):
            raise UserError(
                f"The encoder has the layer {unused[0]!r}, and no image is seen to pass it: name layers that it runs."
                " In a compiled or traced encoder none is seen; give the module itself."
            )
        if self.order is None:
            self.order = list(caught)
        if set(self.order) != set(caught):
            other = min(set(self.order) ^ set(caught))
            raise UserError(f"The layer {other!r} runs for some images and not for others; name others by --layers.")
        for name in self.order:
            if not isinstance(caught[name], Tensor):
                kind = type(caught[name]).__name__
                raise UserError(f"The layer {name!r} gives a {kind} and no tensor; name another.")
            rows[f"layer {name}" if name in OWN else name] = _summary(caught[name], self.stages[name])
        rows["features"] = z
        if self.projector is not None:
            rows["projection"] = self.projector(z.clone())  # it may write into what it reads
        self.widths = {name: row.shape[1] for name, row in rows.items()}
        return torch.cat([row.float() for row in rows.values()], 1)

    def apart(self, parts: list[Tensor]) -> dict[str, list[Tensor]]:
        """The layers of rows that forward made, by name."""
        columns = [part.split(list(self.widths.values()), 1) for part in parts]
        return {name: [part[i] for part in columns] for i, name in enumerate(self.widths)}


def _stages(encoder: nn.Module) -> dict[str, int]:
    """A few of the stages that timm names, with their channels: evenly spaced, the last among them."""
    info = getattr(encoder, "feature_info", None)
    listed = getattr(info, "info", info)
    if not isinstance(listed, list):
        return {}
    known = [(one["module"], one["num_chs"]) for one in listed if "module" in one and "num_chs" in one]
    at = sorted({round(i) for i in torch.linspace(0, len(known) - 1, min(STAGES, len(known))).tolist()})
    return dict(known[i] for i in at)


def _summary(out: Tensor, channels: int | None) -> Tensor:
    if out.ndim == 4:
        channels = channels or out.shape[1]
        out = out if out.shape[1] == channels else out.movedim(-1, 1)  # some transformers keep channels last
        side = max(1, math.isqrt(COLUMNS // channels))
        return nn.functional.adaptive_avg_pool2d(out, (min(side, out.shape[2]), min(side, out.shape[3]))).flatten(1)
    return torch.cat([out[:, 0], out.mean(1)], 1) if out.ndim == 3 else out.flatten(1)


def features_of_views(
    encoder: nn.Module,
    split: "Split",
    indices: Tensor,
    views: "AnyViews",
    seed: int,
    draws: int,
    view: int | None,
    device: str | torch.device | None,
) -> Tensor:
    """Features [draws * n, d] of images as they are, view None, or of their views, which training never saw."""
    images = split.subset(indices)
    made = (views.plain if view is None else _drawn(views, indices, seed, draw, view) for draw in range(draws))
    return torch.cat([features(encoder, images, make, device) for make in made])


def _drawn(views: "AnyViews", indices: Tensor, seed: int, draw: int, view: int) -> Callable[[Tensor], Tensor]:
    """Views of a split's images in order, as `features` asks for them, keyed by an epoch that training never has."""
    done = 0

    def make(images: Tensor) -> Tensor:
        nonlocal done
        ids = indices[done : done + len(images)].to(images.device)
        done += len(images)
        return views(images, ids, seed, -1 - draw, view)

    return make


def principal_axes(fit: Tensor, components: int, seed: int) -> Callable[[Tensor], Tensor]:
    """The map to the leading principal components of `fit`; all columns, as they are, where there are no more."""
    if fit.shape[1] <= components:
        return lambda rows: rows
    mean = fit.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        _, _, axes = torch.pca_lowrank(fit - mean, min(components, len(fit)), center=False)
    return lambda rows: (rows - mean) @ axes
