"""CPC (van den Oord et al., 2018): patches of an image predict those below: accelerate launch recipes/cpc.py

A grid of overlapping patches, each encoded alone; a context reads a column of the grid from the top, and a critic a
step ahead compares it with the patches below. Any objective. Numbers beside SimCLR's: docs/training.md.
"""

from dataclasses import dataclass

import infomax as im
from infomax import data, encoders


@dataclass(frozen=True)
class Settings(im.Settings):
    batch_size: int = 128
    """Images in a batch over all processes; every patch that is predicted is a row, so N is a multiple of it."""
    encoder: str = "resnet10_tiny"
    """Encoder of patches: any timm model, or a small-image variant of infomax's."""
    patch: int = 14
    """Side of a patch in pixels."""
    stride: int = 7
    """From one patch to the next, in pixels."""
    ahead: int = 2
    """Rows that are predicted, below the context."""


if __name__ == "__main__":
    with im.Run(Settings, __doc__, im.InfoNCE()) as run:
        s = run.settings
        dataset = data.dataset(s.dataset, limit=s.limit, skip_unreadable=s.skip_unreadable)
        loader = data.PairLoader(dataset.train, data.views_for(dataset), s.batch_size, s.seed)
        encoder = im.encoder(s.encoder, in_chans=dataset.shape[0])
        width = encoders.features_of(encoder)
        model = im.CPC(
            encoder,
            encoders.CausalGRU(width, 256),
            im.Bilinear(256, width),
            s.maximised(),
            steps=s.ahead, patch=s.patch, stride=s.stride, microbatch=s.microbatch, ring=s.ring,
        )  # fmt: skip
        for _ in run.train(model, loader, None, dataset):
            pass
        run.evaluate(dataset)
