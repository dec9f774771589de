"""Models: a batch in, nats out; what Accelerate wraps and checkpoints hold."""

from infomax.models.base import Model
from infomax.models.infomax import InfoMax

__all__ = ["InfoMax", "Model"]
