"""The built-in losses and the contract that every loss follows."""

from sklearn_ssl.checks import check_bool, check_choice, check_number, is_whole
from sklearn_ssl.losses.base import Batch, Spec, SSLLoss, Views, mean_over_pairs, mlp
from sklearn_ssl.losses.dcl import DCL
from sklearn_ssl.losses.local_crops import local_crops_that_fit, refusal
from sklearn_ssl.losses.maps import MapsToPixels, backbone_with_tokens, map_size, patch_side
from sklearn_ssl.losses.ntxent import NTXent
from sklearn_ssl.losses.queue import Queue, queue_size
from sklearn_ssl.losses.vicreg import VICReg

__all__ = [
    "DCL",
    "Batch",
    "MapsToPixels",
    "NTXent",
    "Queue",
    "SSLLoss",
    "Spec",
    "VICReg",
    "Views",
    "backbone_with_tokens",
    "check_bool",
    "check_choice",
    "check_number",
    "is_whole",
    "local_crops_that_fit",
    "map_size",
    "mean_over_pairs",
    "mlp",
    "patch_side",
    "queue_size",
    "refusal",
]
