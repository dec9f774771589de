"""Two large views and some small crops of each image (Caron et al., 2020): accelerate launch recipes/multicrop.py

Every view is compared with the large ones of its sample, all in one walk. Any objective that reads rows. Numbers beside
SimCLR's: docs/training.md.
"""

from dataclasses import dataclass, replace

import infomax as im
from infomax import data, encoders


@dataclass(frozen=True)
class Settings(im.ImageSettings):
    crops: int = 4
    """Small crops beside the two large views."""
    crop_size: int = 20
    """Side of a small crop, in pixels."""
    crop_scale: tuple[float, float] = (0.25, 0.6)
    """The part of the image's area that a small crop shows."""


if __name__ == "__main__":
    with im.Run(Settings, __doc__, im.InfoNCE()) as run:
        s = run.settings
        if s.crops < 1:
            raise im.UserError(f"--crops is a whole number of at least 1, not {s.crops}; without crops, take simclr.")
        dataset = data.dataset(s.dataset, limit=s.limit, skip_unreadable=s.skip_unreadable)
        large = data.views_for(dataset)
        small = data.Views(replace(large.policy, scale=s.crop_scale), large.mean, large.std, (s.crop_size, s.crop_size))
        loader = data.PairLoader(dataset.train, [large, large, *[small] * s.crops], s.batch_size, s.seed)
        encoder = s.make_encoder(dataset.shape[0])
        model = im.InfoMax(
            encoder,
            encoders.Projector(encoders.features_of(encoder), hidden=256, out=64),
            im.Cosine(s.temperature, learn=s.learn_temperature or "bias"),
            s.maximised(),
            microbatch=s.microbatch, ring=s.ring, targets=2,
        )  # fmt: skip
        for _ in run.train(model, loader, None, dataset):
            pass
        run.evaluate(dataset)
