"""From a user's arrays to pairs that can be estimated on: reading, suspicions, and pairs with their splits."""

from infomax.estimation.pairs.blocks import of_blocks
from infomax.estimation.pairs.pairs import (
    FEWEST,
    FEWEST_A_SPLIT,
    FEWEST_IDS,
    Image,
    Pairs,
    folds,
    has_density,
    is_label,
    jackknife_error,
    joined,
    one_a_sample,
    require_density,
    shuffled,
    split,
    without_a_group,
)
from infomax.estimation.pairs.reading import Side, counts, most_labels, prepared, side

__all__ = [
    "FEWEST", "FEWEST_A_SPLIT", "FEWEST_IDS", "Image", "Pairs", "Side", "counts", "folds", "has_density", "is_label",
    "jackknife_error", "joined", "most_labels", "of_blocks", "one_a_sample", "prepared", "require_density",
    "shuffled", "side", "split", "without_a_group",
]  # fmt: skip
