"""The built-in losses and the contract that every loss follows."""

from sklearn_ssl.losses.base import Batch, Spec, SSLLoss, Views, mean_over_pairs, mlp
from sklearn_ssl.losses.dcl import DCL
from sklearn_ssl.losses.local_crops import local_crops_that_fit
from sklearn_ssl.losses.ntxent import NTXent
from sklearn_ssl.losses.queue import Queue, queue_size
from sklearn_ssl.losses.vicreg import VICReg

__all__ = [
    "DCL",
    "Batch",
    "NTXent",
    "Queue",
    "SSLLoss",
    "Spec",
    "VICReg",
    "Views",
    "local_crops_that_fit",
    "mean_over_pairs",
    "mlp",
    "queue_size",
]
