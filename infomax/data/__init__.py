"""Images: what is read (datasets), how it is augmented (views) and in which order it comes (loader)."""

from infomax.data.datasets import Dataset, Split, dataset, from_tensors, registry
from infomax.data.loader import Batch, PairLoader
from infomax.data.views import Policy, Views, policies, views_for

__all__ = [
    "Batch",
    "Dataset",
    "PairLoader",
    "Policy",
    "Split",
    "Views",
    "dataset",
    "from_tensors",
    "policies",
    "registry",
    "views_for",
]
