"""An encoder sees the whole image, or is refused in a sentence that says what would."""

import copy

import pytest
import torch
from torch import nn

from infomax.encoders import encoder
from infomax.encoders.coverage import influence, require_whole_image
from infomax.errors import UserError


@pytest.mark.parametrize(("name", "side", "arguments"), [
    ("resnet10_tiny", 28, {}), ("resnet10_small_gn", 33, {}), ("resnet18", 28, {}), ("resnet18", 224, {}),
    ("resnet18_small", 32, {}), ("convnext_atto", 32, {}), ("mobilenetv3_small_050", 28, {}),
    ("vit_tiny_patch16_224", 32, {"img_size": 32, "depth": 2}),
    ("vit_tiny_patch16_224", 28, {"img_size": 28, "depth": 2, "patch_size": 7}),
    ("vit_tiny_patch16_224", 28, {"depth": 2, "dynamic_img_size": True, "dynamic_img_pad": True}),
    ("deit_tiny_patch16_224", 48, {"img_size": 48, "depth": 2}),
    ("mixer_s32_224", 64, {"img_size": 64}),
])  # fmt: skip
def test_encoders_that_see_all_are_let_through(name, side, arguments):
    model = encoder(name, in_chans=1, **arguments)
    require_whole_image(model, (1, side, side))
    seen = influence(model, (1, side, side))
    assert seen is not None and seen.double().mean() >= 0.95


@pytest.mark.parametrize(("name", "side", "arguments", "words"), [
    ("vit_tiny_patch16_224", 28, {"img_size": 28, "depth": 2},
     ["67% of the pixels of 28 x 28", "the 16 x 16 at", "32 x 32 are seen whole", "patch_size=14 or 7 or 4"]),
    ("deit_tiny_patch16_224", 40, {"img_size": 40, "depth": 2}, ["36%", "32 x 32 at", "48 x 48", "patch_size=10 or 8"]),
    ("mixer_s16_224", 28, {"img_size": 28}, ["67%", "patches are 16 x 16", "32 x 32 are seen whole."]),
    ("convnext_atto", 47, {}, ["12%", "Images of 44 x 44 are seen whole"]),
    ("vit_tiny_patch16_224", 31, {"img_size": 31, "depth": 2}, ["16 x 16 at", "32 x 32 are seen whole."]),
])  # fmt: skip
def test_encoders_that_cannot_see_it_are_refused(name, side, arguments, words):
    with pytest.raises(UserError) as error:
        require_whole_image(encoder(name, in_chans=3, **arguments), (3, side, side))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_the_size_that_is_advised_is_seen_whole():
    require_whole_image(encoder("convnext_atto", in_chans=3), (3, 44, 44))
    for patch in (14, 7, 4):
        require_whole_image(encoder("vit_tiny_patch16_224", img_size=28, patch_size=patch, depth=1), (3, 28, 28))


def test_images_that_are_not_square():
    model = encoder("vit_tiny_patch16_224", img_size=(32, 40), depth=1)
    with pytest.raises(
        UserError, match=r"ignores 20% of the pixels of 40 x 32 .* sees the 32 x 32 .* images of 48 x 32"
    ):
        require_whole_image(model, (3, 32, 40))


class Largest(nn.Module):
    """Features by the largest response anywhere: one image's gradient reaches few pixels."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x).amax((2, 3))


@pytest.mark.parametrize(("model", "words"), [
    (nn.Flatten(), None),
    (Largest(), None),
    (nn.Sequential(nn.Conv2d(1, 4, 1, stride=2), nn.ReLU(), nn.Flatten()), "75% .*between others"),
    (nn.Sequential(nn.Flatten(), nn.Linear(400, 4), nn.Threshold(1e9, 1.0)), "features are constant"),
])  # fmt: skip
def test_modules_of_ones_own(model, words):
    if words is None:
        require_whole_image(model, (1, 20, 20))
    else:
        with pytest.raises(UserError, match=words):
            require_whole_image(model, (1, 20, 20))


def test_what_cannot_be_judged_is_let_through():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)

    require_whole_image(Detached(), (1, 8, 8))
    require_whole_image(nn.Linear(3, 3), (1, 8, 8))
    assert influence(encoder("vit_tiny_patch16_224", depth=1), (3, 28, 28)) is None  # takes 224 pixels alone


def test_the_encoder_and_the_generators_stay_as_they_are():
    model = encoder("resnet18", in_chans=1).train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.no_grad():
        require_whole_image(model, (1, 32, 32))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
