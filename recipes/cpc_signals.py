"""CPC (van den Oord et al., 2018) of signals [channels, time]: accelerate launch recipes/cpc_signals.py

A strided encoder gives features place by place; a context reads them from the start, and a critic a step ahead compares
it with later places. Any objective. By default drawn waves whose shape is the label; own signals: --dataset
signals:X.npy,LABELS.npy. Probes and the MI of two views are of the mean over places.
"""

from dataclasses import dataclass

import infomax as im
from infomax import data, encoders


@dataclass(frozen=True)
class Settings(im.Settings):
    dataset: str = "waves"
    """waves or waves:N, drawn signals; signals:X.npy,Y.npy, an array [n, channels, time] and its labels [n]."""
    batch_size: int = 64
    """Signals in a batch over all processes; every place that is predicted is a row, so N is a multiple of it."""
    width: int = 64
    """Features of a place."""
    strides: tuple[int, ...] = (4, 2)
    """Of the encoder's convolutions; their product is how many times lie between two places."""
    ahead: int = 2
    """Places that are predicted, after the context's."""


if __name__ == "__main__":
    with im.Run(Settings, __doc__, im.InfoNCE()) as run:
        s = run.settings
        dataset = data.dataset(s.dataset, limit=s.limit, skip_unreadable=s.skip_unreadable)
        loader = data.PairLoader(dataset.train, data.views_for(dataset), s.batch_size, s.seed)
        model = im.CPC(
            encoders.StridedConv1d(dataset.shape[0], s.width, s.strides),
            encoders.CausalGRU(s.width, 256),
            im.Bilinear(256, s.width),
            s.maximised(),
            steps=s.ahead, microbatch=s.microbatch, ring=s.ring,
        )  # fmt: skip
        for _ in run.train(model, loader, None, dataset):
            pass
        run.evaluate(dataset)
