"""evaluate(): probes of an encoder beside their baselines, and the MI of its features."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from infomax.errors import UserError
from infomax.evaluation.information import mutual_information, named_images
from infomax.evaluation.probing import Probe, probe
from infomax.evaluation.result import Evaluation, Probes
from infomax.evaluation.retrieval import Towers, evaluate_towers
from infomax.evaluation.subject import Source, pairs_of, subject

if TYPE_CHECKING:
    from infomax.data import Dataset, Paired


def evaluate(
    checkpoint: Source,
    dataset: "str | Dataset | Paired | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    *,
    terms: bool = True,
    audit: bool = False,
    said: Callable[[str], None] = lambda text: None,
) -> Evaluation | Towers:
    """Probes, kNN and the MI of a saved run's encoder, with their baselines and caps.

    checkpoint: a run or checkpoint folder, a model, or an encoder. dataset: a name or Dataset; a saved run's own by
    default. seed: of splits, critics, views and the untrained encoder. device: where features are made and critics
    trained; a GPU by default, where there is one. terms=False: of MI, I(Z1; Z2) and I(J; Z) alone, as a recipe prints
    them at its end. audit: I(Z1; Z2) with the checks of `infomax.estimation.audit`, nine more estimates, and with one
    more, of mosaics seen by the encoder. said: is called with the name of the next stage. Of two towers, a TwoTower or
    a run of one, it is retrieval among held-out pairs and the MI of their projections. Where there are no
    labels, or too few, Evaluation.probes says so, and the MI is there all the same. Raises UserError: a folder that
    cannot be read, an encoder without a dataset, too few images to estimate MI.
    """
    if (pairs := pairs_of(checkpoint, dataset)) is not None:
        return evaluate_towers(checkpoint, pairs, seed, device, said=said)  # type: ignore[arg-type]
    about = subject(checkpoint, dataset)  # type: ignore[arg-type]
    found = mutual_information(about, None, seed, device, terms=terms, audit=audit, said=said)
    if not terms:
        found = replace(found, identity=named_images(about, seed, device, said))
    try:
        probed: Probes | str = probes(about, None, seed, device, said)
    except UserError as error:  # the MI that was found needs no labels
        probed = str(error)
    return Evaluation(probed, found, about.checkpoint)


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
    from infomax.encoders import encoder_config, encoder_from

    about = subject(checkpoint, dataset)

    def of(encoder: nn.Module) -> Probe:
        return probe(encoder, about.data, seed=seed, device=device, views=about.views)

    try:
        config = encoder_config(about.encoder)
    except UserError:
        config = None
    untrained = None
    if config is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            said("Probing an untrained encoder")
            untrained = of(encoder_from(config))
    said("Probing raw pixels")
    pixels = of(nn.Flatten())
    said("Probing the encoder")
    return Probes(of(about.encoder), pixels, untrained)
