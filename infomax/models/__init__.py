"""Models: a batch in, nats out; what Accelerate wraps and checkpoints hold."""

from torch import nn

from infomax.models.infomax import InfoMax
from infomax.models.parts import part, parts

# By lower-case name. Checkpoints spell these without a module, so they load without running code of the saver's.
registry: dict[str, type[nn.Module]] = {"infomax": InfoMax}

__all__ = ["InfoMax", "part", "parts", "registry"]
