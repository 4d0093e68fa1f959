"""The built-in losses and the contract that every loss follows."""

from sklearn_ssl.losses.base import Batch, Spec, SSLLoss, Views, mean_over_pairs, mlp
from sklearn_ssl.losses.dcl import DCL
from sklearn_ssl.losses.ntxent import NTXent
from sklearn_ssl.losses.vicreg import VICReg

__all__ = ["DCL", "Batch", "NTXent", "SSLLoss", "Spec", "VICReg", "Views", "mean_over_pairs", "mlp"]
