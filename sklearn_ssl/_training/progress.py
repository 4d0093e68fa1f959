"""Progress bars of `fit` and `transform` for `verbose=1`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor
from tqdm.auto import tqdm


class FitProgress(Callback):
    """Progress bar over the whole training, with images/s, loss and remaining time."""

    def __init__(self, title: str):
        self.title = title

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        layout = "{desc} {percentage:3.0f}%|{bar:24}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(desc=self.title, total=1.0, bar_format=layout)

    def on_batch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        self.bar.update(net.progress() - self.bar.n)
        speed = net.batch_size / net.meter.seconds_per_step()
        self.bar.set_postfix_str(f"epoch {net.epoch}, {speed:,.0f} images/s{self._loss(net)}", refresh=False)

    def on_train_end(self, net: NeuralNet, **kwargs: Any) -> None:
        self.bar.update(net.progress() - self.bar.n)  # all of a training of no epochs
        self.bar.close()
        del self.bar  # holds an open stream, which cannot be pickled

    @staticmethod
    def _loss(net: NeuralNet) -> str:
        finished = [row["train_loss"] for row in net.history[-2:] if "train_loss" in row]
        return f", loss {finished[-1]:.3g}" if finished else ""


def over_images(parts: Iterable[Tensor], n_images: int, verbose: int) -> Iterator[Tensor]:
    """Yield the parts, and show a progress bar that counts images if this takes more than a second."""
    with tqdm(total=n_images, desc="embedding", unit=" images", disable=not verbose, delay=1) as bar:
        for part in parts:
            yield part
            bar.update(len(part))
