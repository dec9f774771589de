"""Models, a file each: a model turns a batch into sides, and its loss into nats; base.Model is the base class."""

from infomax.models.base import Model
from infomax.models.cpc import CPC
from infomax.models.deep_infomax import DeepInfoMax
from infomax.models.infomax import InfoMax
from infomax.models.moco import MoCo
from infomax.models.parts import part, parts
from infomax.models.two_tower import TwoTower

__all__ = ["CPC", "DeepInfoMax", "InfoMax", "MoCo", "Model", "TwoTower", "part", "parts", "registry"]

# By lower-case name. Checkpoints spell these without a module, so they load without running code of the saver's.
OF_VIEWS = (InfoMax, MoCo)  # whose critic scores the projections of two views of a sample
registry: dict[str, type[Model]] = {kind.__name__.lower(): kind for kind in (InfoMax, MoCo, DeepInfoMax, CPC, TwoTower)}
