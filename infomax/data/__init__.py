"""Data: readers of data sets (registry), pairs of two modalities (paired), augmentation (views), batches (loader)."""

from infomax.data.given import GivenSplit, GivenViews, given_views
from infomax.data.loader import Batch, PairLoader
from infomax.data.memory import from_tensors
from infomax.data.modality import Modality
from infomax.data.paired import (
    Paired,
    PairedLoader,
    PairedSplit,
    describe_pairs,
    halves,
    pairs,
    pairs_from,
)
from infomax.data.paired_registry import named_views, paired
from infomax.data.policy import Policy, SignalPolicy, policies
from infomax.data.registry import dataset, registry
from infomax.data.signals import from_signals
from infomax.data.source import Dataset, Split
from infomax.data.views import SignalViews, Views, describe_views, views_for, views_from

__all__ = [
    "Batch",
    "Dataset",
    "GivenSplit",
    "GivenViews",
    "Modality",
    "PairLoader",
    "Paired",
    "PairedLoader",
    "PairedSplit",
    "Policy",
    "SignalPolicy",
    "SignalViews",
    "Split",
    "Views",
    "dataset",
    "describe_pairs",
    "describe_views",
    "from_signals",
    "from_tensors",
    "given_views",
    "halves",
    "named_views",
    "paired",
    "pairs",
    "pairs_from",
    "policies",
    "registry",
    "views_for",
    "views_from",
]
