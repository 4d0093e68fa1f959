"""Masked image modeling: methods that predict the masked part of an image, or a representation of it."""

from sklearn_ssl_masked.beit import BEiT
from sklearn_ssl_masked.data2vec import Data2Vec
from sklearn_ssl_masked.ibot import IBOT, DINOv2
from sklearn_ssl_masked.ijepa import IJEPA
from sklearn_ssl_masked.inpainting import Inpainting
from sklearn_ssl_masked.mae import MAE
from sklearn_ssl_masked.simmim import SimMIM

__all__ = ["IBOT", "IJEPA", "MAE", "BEiT", "DINOv2", "Data2Vec", "Inpainting", "SimMIM"]
