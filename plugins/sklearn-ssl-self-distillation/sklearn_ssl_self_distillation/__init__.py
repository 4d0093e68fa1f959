"""Self-distillation: methods that learn by predicting what another view, or a slower self, says."""

from sklearn_ssl_self_distillation.byol import BYOL
from sklearn_ssl_self_distillation.dino import DINO
from sklearn_ssl_self_distillation.simsiam import SimSiam

__all__ = ["BYOL", "DINO", "SimSiam"]
