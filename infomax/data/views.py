"""Augmented views of images and of signals, made in batches on their device, each sample with parameters of its own.

A view is a function of (seed, epoch, sample id, view) alone: its random numbers are a hash of those four, so the batch,
the worker, the process and torch's generators have no part in it. What touches a pixel is elementwise or a gather (no
matrix product, no floating-point reduction), so a sample's view also comes out bit for bit the same in any batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from infomax.data.augment import (
    KNOTS,
    _erase,
    as_unit,
    blurred,
    coloured,
    cropped,
    jittered,
    masked,
    moved,
    noisy,
    rescaled,
    thickened,
)
from infomax.data.keyed import uniforms
from infomax.data.policy import Policy, SignalPolicy, digits, natural, policies, signals
from infomax.errors import UserError, is_number
from infomax.spelling import parse

if TYPE_CHECKING:
    from infomax.data.source import Dataset


CACHED = 2**20  # numbers of images that are made views at once on a CPU


@final
class Views:
    """Images to normalised views: `Views(policy, mean, std)(images, ids, seed, epoch, view)`.

    policy: what a view may do to an image. mean and std: a number per channel, of images in [0, 1]. size: (height,
    width) of a view in pixels, at most the image's, by default the image's own; small crops of a multi-crop recipe are
    sampled at theirs. Raises UserError: a std that is not positive, a size that is no size or larger than the images.
    """

    def __init__(
        self, policy: Policy, mean: Sequence[float], std: Sequence[float], size: tuple[int, int] | None = None
    ) -> None:
        if len(mean) != len(std) or not mean or not all(0 < value < math.inf for value in std):
            raise UserError(f"Views need as many means as positive deviations, not mean={mean!r}, std={std!r}.")
        if size is not None and not (len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)):
            raise UserError(f"A view's size is (height, width) in pixels, not {size!r}.")
        self.policy, self.size = policy, size
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))

    def __repr__(self) -> str:
        size = "" if self.size is None else f", size={self.size!r}"
        return f"Views({self.policy!r}, mean={self.mean!r}, std={self.std!r}{size})"

    @torch.no_grad()
    def __call__(self, images: Tensor, ids: Tensor, seed: int, epoch: int, view: int) -> Tensor:
        """images uint8 [b, c, h, w], ids int64 [b] on the same device -> float32 [b, c, h, w], normalised."""
        self._check(images)
        if ids.shape != images.shape[:1]:
            raise UserError(f"{images.shape[0]} images came with ids of shape {list(ids.shape)}: one id an image.")
        if self.size is not None and (self.size[0] > images.shape[2] or self.size[1] > images.shape[3]):
            raise UserError(
                f"A crop of {self.size[0]} x {self.size[1]} pixels is larger than the images, which have"
                f" {images.shape[2]} x {images.shape[3]}: choose at most that"
                f" (--crop-size {min(images.shape[2:])}, size=)."
            )
        # A number each, in a fixed order: strengths may change without changing what the other draws are.
        u = uniforms(ids, 22 + 2 * KNOTS * KNOTS, seed, epoch, view)
        key = (seed, epoch, view)
        at_once = max(CACHED // max(images[:1].numel(), 1), 1)
        if images.device.type != "cpu" or len(images) <= at_once:
            return self._made(images, ids, u, key)
        # A few at once: what is still in a core's cache need not come from memory for each of the stages.
        sides = self.size or images.shape[2:]
        made = torch.empty(len(images), images.shape[1], *sides)
        for start in range(0, len(images), at_once):
            some = slice(start, start + at_once)
            made[some] = self._made(images[some], ids[some], u[:, some], key)
        return made

    def _made(self, images: Tensor, ids: Tensor, u: Tensor, key: tuple[int, int, int]) -> Tensor:
        policy, x = self.policy, as_unit(images)
        x = moved(policy, x, u[:8], u[22:], self.size)
        if policy.thickness > 0:
            x = thickened(policy, x, u[8])
        x = coloured(policy, images, x, u[9:16])
        if policy.blur > 0:
            x = blurred(policy, x, u[16:18])
        if policy.noise > 0:
            x = noisy(policy, x, ids, key)
        if policy.erase > 0:
            x = _erase(policy, x, u[18:22])
        return self._normalise(x.clamp_(0, 1))

    @torch.no_grad()
    def plain(self, images: Tensor) -> Tensor:
        """images uint8 [b, c, h, w] -> float32 [b, c, h, w], normalised and otherwise as they are."""
        self._check(images)
        return self._normalise(as_unit(images))

    def _check(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise UserError(f"Views are made of uint8 images [b, c, h, w], not {images.dtype} {list(images.shape)}.")
        if images.shape[1] != len(self.mean):
            known = "1 channel" if len(self.mean) == 1 else f"{len(self.mean)} channels"
            raise UserError(
                f"These views, and what was trained by them, are for images of {known}, and these have"
                f" {images.shape[1]}: give images of {known}."
            )

    def _normalise(self, x: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=x.device)[:, None, None]
        return x.sub_(mean).div_(torch.tensor(self.std, device=x.device)[:, None, None])


@final
class SignalViews:
    """Signals to normalised views: `SignalViews(policy, mean, std)(signals, ids, seed, epoch, view)`, as Views does.

    policy: what a view may do to a signal. mean and std: a number per channel. Raises UserError: a std that is not
    positive.
    """

    def __init__(self, policy: SignalPolicy, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or not mean or not all(0 < value < math.inf for value in std):
            raise UserError(f"Views need as many means as positive deviations, not mean={mean!r}, std={std!r}.")
        self.policy, self.mean, self.std = policy, tuple(map(float, mean)), tuple(map(float, std))

    def __repr__(self) -> str:
        return f"SignalViews({self.policy!r}, mean={self.mean!r}, std={self.std!r})"

    @torch.no_grad()
    def __call__(self, signals: Tensor, ids: Tensor, seed: int, epoch: int, view: int) -> Tensor:
        """signals float32 [b, c, time], ids int64 [b] on the same device -> float32 [b, c, time], normalised."""
        x, policy = self.plain(signals), self.policy
        if ids.shape != signals.shape[:1]:
            raise UserError(f"{len(signals)} signals came with ids of shape {list(ids.shape)}: one id a signal.")
        # A number each, in a fixed order: strengths may change without changing what the other draws are.
        u = uniforms(ids, 5 + x.shape[1], seed, epoch, view)
        if policy.crop != (1.0, 1.0) or policy.shift > 0:
            x = cropped(policy, x, u[:3])
        if policy.scale > 0:
            x = rescaled(policy, x, u[5:])
        if policy.jitter > 0:
            x = jittered(policy, x, ids, (seed, epoch, view))
        return masked(policy, x, u[3:5]) if policy.mask > 0 else x

    @torch.no_grad()
    def plain(self, signals: Tensor) -> Tensor:
        """signals float32 [b, c, time] -> float32 [b, c, time], normalised and otherwise as they are."""
        if signals.dtype != torch.float32 or signals.ndim != 3 or signals.shape[1] != len(self.mean):
            raise UserError(
                f"These views are made of float32 signals [b, {len(self.mean)}, time], not {signals.dtype} "
                f"{list(signals.shape)}."
            )
        mean, std = (torch.tensor(side, device=signals.device)[:, None] for side in (self.mean, self.std))
        return (signals - mean) / std


AnyViews = Views | SignalViews


def views_for(dataset: "Dataset", policy: Policy | SignalPolicy | None = None) -> Any:
    """The views that suit a data set: `policy`, or else that of its kind, with the mean and deviation of `dataset`.

    Views of images, SignalViews of signals. Where several channels are not red, green and blue, the policy of their
    kind turns no hue, and leaves saturation as it is. Raises UserError for a policy of the other.
    """
    if dataset.kind == "signals" or isinstance(policy, SignalPolicy):
        policy = signals() if policy is None else policy
        if dataset.kind != "signals" or not isinstance(policy, SignalPolicy):
            raise UserError(f"The data set {dataset.name!r} is of {_what(dataset)}, for which {policy!r} is no policy.")
        return SignalViews(policy, dataset.mean, dataset.std)
    if policy is None:
        policy = natural(dataset.flip, _may_be_colour(dataset)) if dataset.kind == "natural" else digits()
    return Views(policy, dataset.mean, dataset.std)


def _may_be_colour(dataset: "Dataset") -> bool:
    # One channel, of which colours change nothing, keeps the policy that runs on it were saved with.
    return dataset.colour if len(dataset.mean) == 3 else len(dataset.mean) == 1


def _what(dataset: "Dataset") -> str:
    return "signals" if dataset.kind == "signals" else "images"


def describe_views(views: AnyViews) -> dict[str, Any]:
    """What a checkpoint's `preprocessing` says of the views that a model was trained on; views_from() reads it.

    views: whose policy's constructor call is given as "views", beside "mean" and "std".
    """
    return {"mean": list(views.mean), "std": list(views.std), "views": repr(views.policy)}


def same_views(saved: Any, asked: Any, mean: Any) -> bool:
    """Whether two policies' constructor calls make the same views of images with these channels' means.

    saved, asked: as describe_views() writes them. Colours are of three channels, so that on others policies are the
    same but for saturation, hue and gray. What is no policy of images is not compared.
    """
    if not (isinstance(saved, str) and isinstance(asked, str) and isinstance(mean, list | tuple)) or len(mean) == 3:
        return False
    try:
        found = [_policy_of(text) for text in (saved, asked)]
    except UserError:
        return False
    bare = [replace(policy, saturation=0.0, hue=0.0, gray=0.0) for policy in found if isinstance(policy, Policy)]
    return len(bare) == 2 and bare[0] == bare[1]


def _policy_of(text: str) -> Policy | SignalPolicy:
    return parse(text, {"policy": Policy, "signalpolicy": SignalPolicy, **policies}, "policy", allow_imports=False)


def views_from(preprocessing: Mapping[str, Any] | None, dataset: "Dataset") -> Any:
    """The views that a saved model was trained on, to evaluate it on `dataset`.

    preprocessing: a checkpoint's; what it does not say, as older ones do not, is as views_for() has it.
    Views of images, SignalViews of signals. Raises UserError for a preprocessing that describe_views() did not write,
    and for one of images where the data set is of signals, or the other way round.
    """
    known = preprocessing or {}
    views = views_for(dataset)
    text, mean, std = known.get("views"), known.get("mean"), known.get("std")
    if not isinstance(text, str | None):
        raise UserError(f"The saved views {text!r} are not a policy's constructor call.")
    views = views_for(dataset, views.policy if text is None else _policy_of(text))
    if mean is None or std is None:
        return views
    if not all(
        isinstance(side, list | tuple) and all(is_number(v) and abs(v) < 1e9 for v in side) for side in (mean, std)
    ):
        raise UserError(f"The saved mean={mean!r} and std={std!r} are not numbers, one a channel.")
    return type(views)(views.policy, mean, std)
