"""evaluate(): probes of an encoder beside their baselines, and the MI of its features."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from infomax.errors import UserError
from infomax.evaluation.common import labels
from infomax.evaluation.features import Store, held
from infomax.evaluation.finetune import finetuned
from infomax.evaluation.information import mutual_information, named_images
from infomax.evaluation.probing import Probe, probe_features
from infomax.evaluation.result import Evaluation, Probed, Probes
from infomax.evaluation.retrieval import Towers, evaluate_towers
from infomax.evaluation.subject import Source, Subject, pairs_of, subject, untrained_like
from infomax.evaluation.targets import TargetProbe, TargetProbes, probe_targets

if TYPE_CHECKING:
    from infomax.data import Dataset, GivenViews, Paired

PIXELS = 12_288  # numbers of an image that a probe of raw pixels reads, at most: 64 x 64 of three channels


def evaluate(
    checkpoint: Source,
    dataset: "str | Dataset | Paired | GivenViews | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    *,
    terms: bool = True,
    audit: bool = False,
    layers: Sequence[str] | None = None,
    said: Callable[[str], None] = lambda text: None,
) -> Evaluation | Towers:
    """Probes, kNN and the MI of a saved run's encoder, with their baselines and caps.

    checkpoint: a run or checkpoint folder, a model, or an encoder. dataset: a name or Dataset; a saved run's own by
    default. seed: of splits, critics, views and the untrained encoder. device: where features are made and critics
    trained; a GPU by default, where there is one. terms=False: of MI, I(Z1; Z2) and I(J; Z) alone, as a recipe prints
    them at its end. audit: I(Z1; Z2) with the checks of `infomax.estimation.audit`, nine more estimates, and with one
    more, of mosaics seen by the encoder. layers: names of the encoder's submodules that the chain of layers has, in
    any order; by default stages that timm names. said: is called with the name of the next stage. Of two
    towers, a TwoTower or a run of one, it is retrieval among held-out pairs and the MI of their projections; of an
    encoder of given views too, between the first two. Where
    there are no labels, or too few, Evaluation.probes says so, and the MI is there all the same; where there are too
    few images for an MI, a text stands in its place. A data set's targets are probed too. Raises UserError: a folder
    that cannot be read, an encoder without a dataset, no layer of a name, or one that images do not pass.
    """
    if (pairs := pairs_of(checkpoint, dataset)) is not None:
        return evaluate_towers(checkpoint, pairs, seed, device, said=said)  # type: ignore[arg-type]
    about = subject(checkpoint, dataset)  # type: ignore[arg-type]
    found = mutual_information(about, None, seed, device, terms=terms, audit=audit, said=said, layers=layers)
    if not terms:
        found = replace(found, identity=named_images(about, seed, device, said))
    try:
        probed = probe_all(about, None, seed, device, said)
    except UserError as error:  # the MI that was found needs no probes
        probed = Probed(str(error))
    return Evaluation(probed.probes, found, about.checkpoint, probed.targets)


def probes(
    checkpoint: Source,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    said: Callable[[str], None] = lambda text: None,
) -> Probes:
    """The probes of a saved run's encoder, of raw pixels, and of an untrained encoder of the same kind.

    checkpoint, dataset, seed, device, said: as evaluate() takes them. Raises UserError: no labels, one class, too few
    images.
    """
    about = subject(checkpoint, dataset)
    labels(about.data.train, f"{about.data.name}'s training set")
    found = _probed(about, seed, device, said, targets=False).probes
    if isinstance(found, str):
        raise UserError(found)
    return found


def probe_all(
    checkpoint: Source,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    said: Callable[[str], None] = lambda text: None,
    *,
    finetune: bool = False,
    store: Store | None = None,
) -> Probed:
    """As probes(), and the probes of the data set's targets where it has some; of labels that are missing or too few a
    text says so.

    checkpoint, dataset, seed, device, said: as evaluate() takes them. finetune: of the two encoders, fine-tune copies
    too; Probe.finetuned has what came of it. store: where features are kept, by default Store(). Raises UserError: a
    folder that cannot be read, features that are not finite, a disk without room for them.
    """
    return _probed(subject(checkpoint, dataset), seed, device, said, targets=True, finetune=finetune, store=store)


def _probed(
    about: Subject,
    seed: int,
    device: str | torch.device | None,
    said: Callable[[str], None],
    *,
    targets: bool,
    finetune: bool = False,
    store: Store | None = None,
) -> Probed:
    """Each encoder's features are made once, and kept no longer than its probes need them."""
    from infomax.data import views_for

    data, plain = about.data, (about.views or views_for(about.data)).plain
    why: str | None = None
    try:
        train_y, test_y = (
            labels(split, f"{data.name}'s {what} set")
            for split, what in ((data.train, "training"), (data.test, "test"))
        )
    except UserError as error:
        why, train_y, test_y = str(error), None, None
    targets = targets and bool(data.train.targets)
    if why is not None and not targets:
        return Probed(why, None)
    found: dict[str, Probe] = {}
    of_targets: dict[str, tuple[TargetProbe, ...]] = {}
    untrained = untrained_like(about.encoder, seed)
    encoders = {} if untrained is None else {"an untrained encoder": untrained}
    for name, encoder in (encoders | {"raw pixels": Pixels(), "the encoder": about.encoder}).items():
        said(f"Probing {name}")
        train_x, test_x = (held(encoder, split, plain, device, store=store) for split in (data.train, data.test))
        if train_x.on_disk:
            said(f"Probing {name}, {train_x}")
        if train_y is not None and test_y is not None:
            try:
                found[name] = probe_features(train_x, train_y, test_x, test_y, seed=seed, names=data.classes)
            except UserError as error:  # too few images, as for every encoder
                why, train_y = str(error), None
                if not targets:
                    return Probed(why, None)
        if targets:
            of_targets[name] = probe_targets(train_x, data.train.targets, test_x, data.test.targets, seed=seed)
        del train_x, test_x  # before others are made
        if finetune and name in found and name != "raw pixels":
            tuned = finetuned(encoder, data, plain, seed, device, said, name, store)
            found[name] = replace(found[name], finetuned=tuned)
    in_order = ("the encoder", "raw pixels", "an untrained encoder")
    trained, pixels, baseline = (of_targets.get(name) for name in in_order)
    return Probed(
        why or Probes(found["the encoder"], found["raw pixels"], found.get("an untrained encoder")),
        None if trained is None or pixels is None else TargetProbes(trained, pixels, baseline),
    )


@final
class Pixels(nn.Module):
    """The baseline of raw pixels: images [b, c, h, w], or signals [b, c, time], in one row each; of more than 12,288
    numbers averaged to fewer places, as a linear probe of 150,528 would hold more than any encoder's."""

    def forward(self, images: Tensor) -> Tensor:
        """images [b, c, h, w] or [b, c, time] -> [b, d], d 12,288 at most."""
        sides = images.shape[2:]
        by = (PIXELS / (images.shape[1] * math.prod(sides))) ** (1 / len(sides))
        if by < 1:
            pool: Any = (nn.functional.adaptive_avg_pool1d, nn.functional.adaptive_avg_pool2d)[len(sides) - 1]
            images = pool(images, tuple(max(1, int(side * by + 1e-6)) for side in sides))
        return images.flatten(1)
