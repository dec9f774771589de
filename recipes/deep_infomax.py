"""Deep InfoMax (Hjelm et al., 2019), across two views: accelerate launch recipes/deep_infomax.py

Patches of a feature map against the other view's summary, and the two summaries: any objective, each term its own.
Numbers beside SimCLR's: docs/training.md.
"""

from dataclasses import dataclass

import infomax as im
from infomax import data, encoders


@dataclass(frozen=True)
class Settings(im.ImageSettings):
    layer: str | None = "layer3"
    """The encoder's part whose output is the map; none for what timm's forward_features gives."""
    local: float = 1.0
    """Weight of the patches' term; 0 leaves it out."""
    globally: float = 1.0
    """Weight of the summaries' term; 0 leaves it out."""


if __name__ == "__main__":
    with im.Run(Settings, __doc__, im.InfoNCE()) as run:
        s = run.settings
        dataset = data.dataset(s.dataset, limit=s.limit, skip_unreadable=s.skip_unreadable)
        loader = data.PairLoader(dataset.train, data.views_for(dataset), s.batch_size, s.seed)
        encoder = s.make_encoder(dataset.shape[0])
        layer = None if s.layer in (None, "none") else s.layer
        local = s.local != 0
        places = encoders.map_width(encoder, dataset.shape, layer) if local else 0
        model = im.DeepInfoMax(
            encoder,
            encoders.Projector(encoders.features_of(encoder), hidden=256, out=64),
            encoders.Projector(places, hidden=256, out=64) if local else None,
            im.Cosine(s.temperature, learn=s.learn_temperature or "bias"),
            s.maximised(),
            local=local, globally=s.globally != 0, local_weight=s.local or 1.0, global_weight=s.globally or 1.0,
            layer=layer, microbatch=s.microbatch, ring=s.ring,
        )  # fmt: skip
        for _ in run.train(model, loader, None, dataset):
            pass
        run.evaluate(dataset)
