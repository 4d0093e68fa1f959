"""Canonical-correlation (CCA) family: methods without negatives, which spread the images evenly."""

from sklearn_ssl_cca.deepcluster import DeepCluster
from sklearn_ssl_cca.emp_ssl import EMPSSL
from sklearn_ssl_cca.lejepa import LeJEPA
from sklearn_ssl_cca.mmcr import MMCR
from sklearn_ssl_cca.swav import SwAV
from sklearn_ssl_cca.tico import TiCo
from sklearn_ssl_cca.vicregl import VICRegL
from sklearn_ssl_cca.visreg import VISReg
from sklearn_ssl_cca.wmse import WMSE

__all__ = ["EMPSSL", "MMCR", "WMSE", "DeepCluster", "LeJEPA", "SwAV", "TiCo", "VICRegL", "VISReg"]
