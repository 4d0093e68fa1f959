"""Learn to embed images without labels: a scikit-learn transformer whose learning method is a plugin."""

from sklearn_ssl.embedder import SSLImageEmbedder, load
from sklearn_ssl.files import list_images
from sklearn_ssl.losses.base import Batch, Spec, SSLLoss, Views
from sklearn_ssl.nested_params import param_grid
from sklearn_ssl.plotting import plot_reconstructions, plot_views, sample_views
from sklearn_ssl.registry import LossInfo, available_losses, get_loss, register_loss

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "LossInfo",
    "SSLImageEmbedder",
    "SSLLoss",
    "Spec",
    "Views",
    "available_losses",
    "get_loss",
    "list_images",
    "load",
    "param_grid",
    "plot_reconstructions",
    "plot_views",
    "register_loss",
    "sample_views",
]
