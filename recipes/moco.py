"""MoCo (He et al., 2020): keys by a momentum encoder, a queue of earlier keys: accelerate launch recipes/moco.py

Any objective that reads rows: --objective "SMILE(tau=5)". Numbers beside SimCLR's: docs/training.md.
"""

from dataclasses import dataclass

import infomax as im
from infomax import data, encoders


@dataclass(frozen=True)
class Settings(im.ImageSettings):
    queue: int = 4096
    """Earlier keys that are negatives too: a multiple of --batch-size."""
    momentum: float = 0.99
    """Momentum of the key network, which follows the trained one: in [0, 1)."""
    shuffle: bool = False
    """Across processes encode each key in another process's batch, so that BatchNorm statistics do not give it away."""


if __name__ == "__main__":
    with im.Run(Settings, __doc__, im.InfoNCE()) as run:
        s = run.settings
        dataset = data.dataset(s.dataset, limit=s.limit, skip_unreadable=s.skip_unreadable)
        loader = data.PairLoader(dataset.train, data.views_for(dataset), s.batch_size, s.seed)
        encoder = s.make_encoder(dataset.shape[0])
        model = im.MoCo(
            encoder,
            encoders.Projector(encoders.features_of(encoder), hidden=256, out=64),
            im.Cosine(s.temperature, learn=s.learn_temperature or "bias"),
            s.maximised(),
            queue=s.queue, momentum=s.momentum, shuffle=s.shuffle, microbatch=s.microbatch, ring=s.ring,
        )  # fmt: skip
        for _ in run.train(model, loader, None, dataset):
            pass
        run.evaluate(dataset)
