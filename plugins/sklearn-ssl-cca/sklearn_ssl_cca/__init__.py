"""The canonical correlation family: no negatives; whitening or grouping keeps the images apart."""

from sklearn_ssl_cca.deepcluster import DeepCluster
from sklearn_ssl_cca.swav import SwAV
from sklearn_ssl_cca.wmse import WMSE

__all__ = ["WMSE", "DeepCluster", "SwAV"]
