"""Models: a batch in, nats out; what Accelerate wraps and checkpoints hold."""

from infomax.models.infomax import InfoMax

__all__ = ["InfoMax"]
