"""Learn to embed images without labels: a scikit-learn transformer whose learning method is a plugin."""

from sklearn_ssl._displays.embedding_map import EmbeddingMapDisplay
from sklearn_ssl._displays.label_efficiency import LabelEfficiencyDisplay
from sklearn_ssl._displays.neighbors import NeighborsDisplay
from sklearn_ssl._displays.reconstruction import ReconstructionDisplay
from sklearn_ssl._displays.spectrum import SpectrumDisplay
from sklearn_ssl._displays.training_curve import TrainingCurveDisplay
from sklearn_ssl._displays.views import ViewsDisplay, sample_views
from sklearn_ssl._embedder import SSLImageEmbedder, load
from sklearn_ssl._images.file_parts import FilePart, list_parts
from sklearn_ssl._images.files import list_images
from sklearn_ssl._images.reader import Reader
from sklearn_ssl._images.shards import ImageShards
from sklearn_ssl._params import param_grid
from sklearn_ssl._scorers import EmbeddingScorer, available_scorers, get_scorer
from sklearn_ssl._splits import LabeledKFold
from sklearn_ssl._together import fit_together
from sklearn_ssl.losses._base import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses._loss_info import LossInfo
from sklearn_ssl.losses._registry import available_losses, get_loss, register_loss

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "EmbeddingMapDisplay",
    "EmbeddingScorer",
    "FilePart",
    "ImageShards",
    "LabelEfficiencyDisplay",
    "LabeledKFold",
    "LossInfo",
    "NeighborsDisplay",
    "Reader",
    "ReconstructionDisplay",
    "SSLImageEmbedder",
    "SSLLoss",
    "Spec",
    "SpectrumDisplay",
    "TrainingCurveDisplay",
    "ViewSpec",
    "ViewsDisplay",
    "available_losses",
    "available_scorers",
    "fit_together",
    "get_loss",
    "get_scorer",
    "list_images",
    "list_parts",
    "load",
    "param_grid",
    "register_loss",
    "sample_views",
]
