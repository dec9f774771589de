"""Given views of a sample, as of several sensors, one encoder: accelerate launch recipes/given_views.py

All ordered pairs of views are compared in one walk, by any objective that reads rows. By default the top and the bottom
half of each digit; own views: --dataset views:A.npy,B.npy,C.npy, arrays of one shape, of which row i is sample i. It
ends with retrieval between the first two views among held-out samples, and their MI with its verdict.
"""

from dataclasses import dataclass

import infomax as im
from infomax import data, encoders


@dataclass(frozen=True)
class Settings(im.Settings):
    dataset: str = "halves:mnist5k"
    """views:A.npy,B.npy,..., two or more arrays [n, ...] of one shape; halves:NAME of a data set of images; or another
    name of pairs whose sides have one shape, as recipes/clip.py takes them."""
    encoder: str = "resnet10_tiny"
    """Of views that are images [n, c, h, w]: any timm model. Rows of numbers get an MLP."""
    temperature: float = 0.2
    """Temperature of the cosine critic: scores are cos / temperature + bias, in nats. The bias is learnt, from 0."""


if __name__ == "__main__":
    with im.Run(Settings, __doc__, im.InfoNCE()) as run:
        s = run.settings
        views = data.named_views(s.dataset, limit=s.limit, skip_unreadable=s.skip_unreadable)
        loader = data.PairedLoader(views.train, s.batch_size, s.seed)
        first, shape = views.train.views[0], views.shape
        encoder = im.encoder(s.encoder, in_chans=shape[0]) if len(shape) == 3 else encoders.MLP(first.numbers)
        model = im.InfoMax(
            encoder,
            encoders.Projector(encoders.features_of(encoder), hidden=256, out=64),
            im.Cosine(s.temperature, learn="bias"),
            s.maximised(),
            ntxent=len(views.train.views) == 2,  # which is all ordered pairs of two views
            microbatch=s.microbatch, ring=s.ring,
        )  # fmt: skip
        for _ in run.train(model, loader, None, views):
            pass
        run.evaluate(views)
