"""Two modalities, two towers (after CLIP, Radford et al., 2021), any objective: accelerate launch recipes/clip.py

By default the top and the bottom half of each digit; own pairs: --dataset pairs:x.npy,y.npy, captions:TABLE.csv,
or "pairs:TABLE.csv?x=left&y=right", two image files a line. It ends with retrieval among held-out pairs and I(X; Y)
with its verdict. Beside open_clip's loss: infomax benchmark towers.
"""

from dataclasses import dataclass

import infomax as im
from infomax import data, encoders


@dataclass(frozen=True)
class Settings(im.Settings):
    dataset: str = "halves:mnist5k"
    """halves:NAME of a data set of images; pairs:X.npy,Y.npy, two arrays of equal length, ?tokens=y if y are tokens;
    pairs:TABLE?x=LEFT&y=RIGHT, two columns of image files; captions:TABLE, images and texts (columns path and text);
    or names:emoji, drawings and their names."""
    encoder: str = "resnet10_tiny"
    """Of a modality that is images [n, c, h, w]: any timm model. Rows of numbers get an MLP, texts convolutions."""
    temperature: float = 0.07
    """Where the learnt temperature of the cosine critic starts."""


def tower(name: str, modality: data.Modality):
    """An encoder of the modality's rows, and its projector."""
    shape = modality.shape
    if modality.vocabulary is not None:
        encoder = encoders.Tokens(modality.vocabulary)
    else:
        encoder = im.encoder(name, in_chans=shape[0]) if len(shape) == 3 else encoders.MLP(modality.numbers)
    return encoder, encoders.Projector(encoders.features_of(encoder), hidden=256, out=64)


if __name__ == "__main__":
    with im.Run(Settings, __doc__, im.InfoNCE(symmetric=True)) as run:
        s = run.settings
        pairs = data.paired(s.dataset, limit=s.limit, skip_unreadable=s.skip_unreadable)
        loader = data.PairedLoader(pairs.train, s.batch_size, s.seed)
        encoder_x, projector_x = tower(s.encoder, pairs.train.x)
        encoder_y, projector_y = tower(s.encoder, pairs.train.y)
        model = im.TwoTower(
            encoder_x, encoder_y, projector_x, projector_y,
            im.Cosine(s.temperature, learn=True),
            s.maximised(),
            microbatch=s.microbatch, ring=s.ring,
        )  # fmt: skip
        for _ in run.train(model, loader, None, pairs):
            pass
        run.evaluate(pairs)
