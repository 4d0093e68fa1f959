"""Masked image modelling: methods that learn by filling in what they are not shown."""

from sklearn_ssl_masked.beit import BEiT
from sklearn_ssl_masked.inpainting import Inpainting
from sklearn_ssl_masked.mae import MAE
from sklearn_ssl_masked.simmim import SimMIM

__all__ = ["MAE", "BEiT", "Inpainting", "SimMIM"]
