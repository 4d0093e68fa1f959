"""Built-in losses, and the base class and helpers for losses of plugins."""

from sklearn_ssl._checks import check_bool, check_choice, check_number, is_whole
from sklearn_ssl.losses._base import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses._dcl import DCL
from sklearn_ssl.losses._local_crops import multi_crop, why_size_is_rejected
from sklearn_ssl.losses._maps import MapsToPixels, backbone_with_tokens, map_size, patch_side
from sklearn_ssl.losses._mlp import mlp
from sklearn_ssl.losses._ntxent import NTXent
from sklearn_ssl.losses._pairs import mean_over_pairs, mean_over_targets
from sklearn_ssl.losses._protocols import Student, Teacher
from sklearn_ssl.losses._queue import Queue, queue_size
from sklearn_ssl.losses._vicreg import VICReg

__all__ = [
    "DCL",
    "Batch",
    "MapsToPixels",
    "NTXent",
    "Queue",
    "SSLLoss",
    "Spec",
    "Student",
    "Teacher",
    "VICReg",
    "ViewSpec",
    "backbone_with_tokens",
    "check_bool",
    "check_choice",
    "check_number",
    "is_whole",
    "map_size",
    "mean_over_pairs",
    "mean_over_targets",
    "mlp",
    "multi_crop",
    "patch_side",
    "queue_size",
    "why_size_is_rejected",
]
