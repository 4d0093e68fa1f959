"""Pretext tasks: prediction of properties of an image that are known without labels."""

from sklearn_ssl_pretext.colorization import Colorization
from sklearn_ssl_pretext.cpc import CPC
from sklearn_ssl_pretext.diet import DIET
from sklearn_ssl_pretext.jigsaw import Jigsaw
from sklearn_ssl_pretext.relative_location import RelativeLocation
from sklearn_ssl_pretext.rotation import Rotation

__all__ = ["CPC", "DIET", "Colorization", "Jigsaw", "RelativeLocation", "Rotation"]
