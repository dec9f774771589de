"""What a saved encoder is worth: probes beside their baselines, and the MI of its features."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from infomax.errors import UserError
from infomax.evaluation.information import mutual_information
from infomax.evaluation.probing import probe
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
) -> Evaluation | Towers:
    """Probes, kNN and the MI of a saved run's encoder, with their baselines and caps.

    checkpoint: a run or checkpoint folder, an InfoMax, or an encoder. dataset: a name or Dataset; a saved run's own by
    default. terms=False: of MI, I(Z1; Z2) alone, as a recipe prints it at its end. audit: I(Z1; Z2) with the checks of
    `infomax.estimation.audit`, nine more estimates, and with one more, of mosaics seen by the encoder.
    Of two towers, a TwoTower or a run of one, it is retrieval among held-out pairs and the MI of their projections.
    Raises UserError: a folder that cannot be read, an encoder without a dataset.
    """
    if (pairs := pairs_of(checkpoint, dataset)) is not None:
        return evaluate_towers(checkpoint, pairs, seed, device)  # type: ignore[arg-type]
    about = subject(checkpoint, dataset)  # type: ignore[arg-type]
    found = mutual_information(about, None, seed, device, terms=terms, audit=audit)
    return Evaluation(probes(about, None, seed, device), found, about.checkpoint)


def probes(
    checkpoint: Source,
    dataset: "str | Dataset | None" = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Probes:
    """The probes of a saved run's encoder, of raw pixels, and of an untrained encoder of the same kind."""
    from infomax.encoders import encoder_config, encoder_from

    about = subject(checkpoint, dataset)
    try:
        config = encoder_config(about.encoder)
    except UserError:
        config = None
    untrained = None
    if config is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            untrained = probe(encoder_from(config), about.data, seed=seed, device=device)
    pixels = probe(nn.Flatten(), about.data, seed=seed, device=device)
    return Probes(probe(about.encoder, about.data, seed=seed, device=device), pixels, untrained)
