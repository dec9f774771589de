"""Whether an encoder sees the whole image: patches and strides may leave pixels without any influence on features."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infomax.errors import UserError

UNSEEN = 0.05  # part of the pixels that may be without influence: a row or two, lost to a stride
_IMAGES = 4  # random images a round
_ROUNDS, _PATIENCE = 24, 4  # at most so many rounds; over when so many in succession found no further pixel


def require_whole_image(encoder: nn.Module, shape: Sequence[int], device: str | torch.device | None = None) -> None:
    """Refuses an encoder to whose features more than 5 % of an image's pixels make no difference.

    encoder: images [b, c, h, w] -> features, a tensor; it stays as it is, and so do torch's generators. shape: (c, h,
    w) of the images. device: where a copy of it is tried, by default where it lies. A pixel is without influence where
    the features' gradient with respect to it is exactly zero on random images. An encoder that cannot be copied,
    differentiated or run on such images is not judged. Raises UserError, which names the share of such pixels and a
    size or patch size that sees all.
    """
    _, height, width = shape
    seen = influence(encoder, shape, device)
    if seen is None:
        return
    unseen = 1 - float(seen.double().mean())
    if unseen <= UNSEEN + 1e-9:  # one row of twenty is 5 % but for rounding
        return
    rows, columns = (torch.nonzero(seen.any(dim)).flatten() for dim in (1, 0))
    what = f"The encoder, a {type(encoder).__name__}, ignores {unseen:.0%} of the pixels of {width} x {height} images"
    if len(rows) == 0:
        raise UserError(f"{what}: its features are constant. Choose another encoder.")
    bottom, right = int(rows[-1]) + 1, int(columns[-1]) + 1
    if float(seen[:bottom, :right].double().mean()) < 1 - UNSEEN:
        raise UserError(f"{what}: it leaves out pixels between others, as a stride longer than its kernel does. "
                        "Choose another encoder, or a smaller stride.")  # fmt: skip
    raise UserError(
        f"{what}: it sees the {right} x {bottom} at the upper left. {_advice(encoder, shape, bottom, right)}"
    )


def influence(encoder: nn.Module, shape: Sequence[int], device: str | torch.device | None = None) -> Tensor | None:
    """Which pixels of images of `shape` (c, h, w) make a difference to the features, bool [h, w]; None if not known.

    Those without any are in rows, or columns, none of whose pixels makes one.
    """
    try:
        probe = copy.deepcopy(encoder).eval().requires_grad_(False)
        probe = probe if device is None else probe.to(device)
    except Exception:  # a module may hold anything
        return None
    weight = next((p for p in probe.parameters() if p.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)

    def random(*sides: int) -> Tensor:
        return torch.randn(sides, generator=generator).to(weight.device, weight.dtype)

    # The last scale of a residual branch often starts at zero, which hides all that the branch sees.
    for parameter in probe.parameters():
        if parameter.is_floating_point() and parameter.numel() and not parameter.any():
            parameter.copy_(0.1 * random(*parameter.shape))
    seen, still = torch.zeros(tuple(shape[1:]), dtype=torch.bool), 0
    devices = [weight.device] if weight.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        for _ in range(_ROUNDS):
            try:
                images = random(_IMAGES, *shape).requires_grad_()
                features = probe(images)
                (gradient,) = torch.autograd.grad((features * random(*features.shape)).sum(), images)
            except Exception:  # that it cannot take such images is told elsewhere
                return None
            more = _crossed(seen | (gradient != 0).flatten(0, 1).any(dim=0).cpu())
            still = still + 1 if torch.equal(more, seen) else 0
            seen = more
            if still >= _PATIENCE or float(seen.double().mean()) >= 1 - UNSEEN:
                return seen
    return None  # every round found further pixels


def _crossed(seen: Tensor) -> Tensor:
    # Patches and strides leave out whole rows and columns. A maximum over places shows few of its pixels at a time.
    return seen.any(1)[:, None] & seen.any(0)


def _advice(encoder: nn.Module, shape: Sequence[int], bottom: int, right: int) -> str:
    channels, height, width = shape
    embedding = getattr(encoder, "patch_embed", None)
    patch = getattr(embedding if embedding is not None else getattr(encoder, "stem", None), "patch_size", None)
    sides = [patch, patch] if isinstance(patch, int) else list(patch or ())
    if len(sides) == 2 and all(isinstance(side, int) and side > 1 for side in sides):
        up = [-(-whole // side) * side for whole, side in zip((height, width), sides, strict=True)]
        text = f"Its patches are {sides[1]} x {sides[0]}: images of {up[1]} x {up[0]} are seen whole"
        common = math.gcd(height, width)
        fits = [str(side) for side in range(min(sides), 1, -1) if common % side == 0]
        # An MLP-Mixer's stem is made of patches as well, whose size is no argument of timm's.
        return (
            f"{text}, or choose patch_size={' or '.join(fits[:3])}." if fits and embedding is not None else f"{text}."
        )
    smaller = influence(encoder, (channels, bottom, right))
    if smaller is not None and float(smaller.double().mean()) >= 1 - UNSEEN:
        return (
            f"Images of {right} x {bottom} are seen whole, as they are by encoders of a smaller stride: resnet18_small."
        )
    return "Choose another size, or an encoder of a smaller stride, such as resnet18_small."
