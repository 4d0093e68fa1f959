"""Self-distillation: methods that predict the output of a momentum teacher or of a stop-gradient branch."""

from sklearn_ssl_self_distillation.byol import BYOL
from sklearn_ssl_self_distillation.dino import DINO
from sklearn_ssl_self_distillation.simsiam import SimSiam

__all__ = ["BYOL", "DINO", "SimSiam"]
