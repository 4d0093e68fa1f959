"""Masked image modeling: methods that reconstruct the masked part of an image."""

from sklearn_ssl_masked.beit import BEiT
from sklearn_ssl_masked.inpainting import Inpainting
from sklearn_ssl_masked.mae import MAE
from sklearn_ssl_masked.simmim import SimMIM

__all__ = ["MAE", "BEiT", "Inpainting", "SimMIM"]
