"""Two augmented views of a signal [channels, time], one encoder, any objective: accelerate launch recipes/signals.py

Views are crops, shifts, changes of strength, noise and masked pieces (data.SignalPolicy). By default drawn waves whose
shape is the label; own signals: --dataset signals:X.npy,LABELS.npy. It ends with probes and the MI of two views.
"""

from dataclasses import dataclass

import infomax as im
from infomax import data, encoders


@dataclass(frozen=True)
class Settings(im.Settings):
    dataset: str = "waves"
    """waves or waves:N, drawn signals; signals:X.npy,Y.npy, an array [n, channels, time] and its labels [n]."""
    width: int = 32
    """Channels of the encoder's first stage; it has three, each twice as wide as the one before."""
    temperature: float = 0.2
    """Temperature of the cosine critic: scores are cos / temperature + bias, in nats."""


if __name__ == "__main__":
    with im.Run(Settings, __doc__, im.InfoNCE()) as run:
        s = run.settings
        dataset = data.dataset(s.dataset, limit=s.limit, skip_unreadable=s.skip_unreadable)
        loader = data.PairLoader(dataset.train, data.views_for(dataset), s.batch_size, s.seed)
        encoder = encoders.ResNet1d(dataset.shape[0], s.width)
        projector = encoders.Projector(encoders.features_of(encoder), hidden=256, out=64)
        critic = im.Cosine(s.temperature, learn="bias")
        model = im.InfoMax(encoder, projector, critic, s.maximised(), microbatch=s.microbatch, ring=s.ring)
        for _ in run.train(model, loader, None, dataset):
            pass
        run.evaluate(dataset)
