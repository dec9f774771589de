"""Two augmented views of an image (SimCLR, Chen et al., 2020), any objective: accelerate launch recipes/simclr.py

InfoNCE unless --objective names another; simclr_smile.py, simclr_infonce.py and simclr_nwj.py hand theirs to main().
Own images, in class folders or in one folder: --dataset folder:PATH. It ends with probes and the MI of two views.
"""

import infomax as im
from infomax import data, encoders

Settings = im.ImageSettings  # a recipe with options of its own derives a dataclass from it


def main(doc: str | None, name: str, objective: im.Objective) -> None:
    with im.Run(Settings, doc, objective, name) as run:
        s = run.settings
        dataset = data.dataset(s.dataset, limit=s.limit, skip_unreadable=s.skip_unreadable)
        loader = data.PairLoader(dataset.train, data.views_for(dataset), s.batch_size, s.seed)
        encoder = s.make_encoder(dataset.shape[0])
        projector = encoders.Projector(encoders.features_of(encoder), hidden=256, out=64)
        critic = im.Cosine(s.temperature, learn=s.learn_temperature or "bias")
        model = im.InfoMax(encoder, projector, critic, s.maximised(), microbatch=s.microbatch, ring=s.ring)
        for _ in run.train(model, loader, None, dataset):
            pass  # log.jsonl and the progress line have every step; what else is wanted of one goes here
        run.evaluate(dataset)


if __name__ == "__main__":
    main(__doc__, "simclr", objective=im.InfoNCE())
