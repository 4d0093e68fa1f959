"""scikit-learn's callbacks (1.9 or later), for which a fit is a task and each of its epochs a subtask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: scikit-learn before 1.9 has no callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method itself."""
        return method


__all__ = ["CallbackSupportMixin", "FitTask", "with_callbacks"]


class FitTask:
    """Fit of an estimator, as a task of the callbacks set by `set_callbacks` or by a pipeline or a search.

    Parameters
    ----------
    estimator : estimator
        Estimator that is fitted.
    max_epochs : int or None
        Number of epochs, None if it is not known.
    X, y, groups : object
        Arguments of `fit`.
    """

    def __init__(self, estimator: BaseEstimator, max_epochs: int | None, X: Any, y: Any, groups: Any = None):
        self.estimator = estimator
        self.given = {"X": X, "y": y, "metadata": None if groups is None else {"groups": groups}}
        self.context: Any = None
        if hasattr(estimator, "_init_callback_context"):
            self.context = estimator._init_callback_context(max_subtasks=max_epochs)
            self.context.call_on_fit_task_begin(estimator=estimator, **self.given)

    def label(self, n_images: int) -> None:
        """Set the labels of images without any to -1: `ScoringMonitor` does not score without labels."""
        if self.given["y"] is None:
            self.given["y"] = np.full(n_images, -1)

    def callbacks(self, attributes: Callable[[Any], dict[str, Any]]) -> list[Callback]:
        """Return the callback of skorch that passes on the epochs, if there is anything to pass them on to.

        Parameters
        ----------
        attributes : callable
            Function of the skorch net that returns the fitted attributes as of now.
        """
        if not getattr(self.estimator, "_skl_callbacks", []):
            return []
        return [_Epochs(self, attributes)]

    def end(self) -> None:
        """Tell the callbacks that the fit has ended; the estimator is fitted."""
        if self.context is not None:
            fitted = {name: value for name, value in vars(self.estimator).items() if name.endswith("_")}
            self.context.call_on_fit_task_end(
                estimator=self.estimator, reconstruction_attributes=fitted, **self.given
            )


class _Epochs(Callback):
    """Callback of skorch that makes each epoch a task of scikit-learn's callbacks."""

    def __init__(self, fit: FitTask, attributes: Callable[[Any], dict[str, Any]]):
        self.fit = fit
        self.attributes = attributes

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        self.task = self.fit.context.subcontext(task_name="epoch")
        self.task.call_on_fit_task_begin(estimator=self.fit.estimator, **self.fit.given)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        stop = self.task.call_on_fit_task_end(
            estimator=self.fit.estimator,
            reconstruction_attributes=lambda: self.attributes(net),
            **self.fit.given,
        )
        if stop:
            raise KeyboardInterrupt  # as callbacks of skorch end a training
