"""Canonical-correlation (CCA) family: methods without negatives, based on whitening or clustering."""

from sklearn_ssl_cca.deepcluster import DeepCluster
from sklearn_ssl_cca.swav import SwAV
from sklearn_ssl_cca.wmse import WMSE

__all__ = ["WMSE", "DeepCluster", "SwAV"]
