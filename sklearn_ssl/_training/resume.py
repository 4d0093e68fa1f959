"""Identity of a training, and the state that a fit goes on from."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sklearn_ssl._distributed.team import Team
from sklearn_ssl._filesystem import given_path
from sklearn_ssl._hashing import fingerprint, told_by_address
from sklearn_ssl._images.reader import make_reader
from sklearn_ssl._images.sources import Source
from sklearn_ssl._networks.weights import mismatches
from sklearn_ssl._training.assemble import cannot_go_on
from sklearn_ssl._training.checkpoint import Checkpoint
from sklearn_ssl._training.net import SSLNet
from sklearn_ssl._warnings import warn
from sklearn_ssl.losses._adapters import loss_name, resolve_loss

# Packages whose versions tell one training from another, as do those that code is taken from.
PACKAGES = ("sklearn_ssl", "torch", "torchvision")
# Parameters, and settings of reading, excluded from the fingerprint of a training.
PARAMS_NOT_IN_FINGERPRINT = ("callbacks", "checkpoint", "verbose", "warm_start")
READER_NOT_IN_FINGERPRINT = ("cache", "cache_limit", "memory_limit", "workers")


def open_checkpoint(
    params: Mapping[str, Any],
    resolved: Mapping[str, Any],
    source: Source,
    labels: Tensor | None,
    before: Mapping[str, Any] | None,
    team: Team,
    evaluation: Any = None,
) -> Checkpoint | None:
    """Return the checkpoint of this very training: same parameters, images, labels and earlier state.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.
    resolved : mapping
        Values of names and of "auto", which may differ after an upgrade.
    source : Source
    labels : Tensor or None
    before : mapping or None
        What a warm start goes on with.
    team : Team
        Processes of the training, the first of which may have to read all images for the fingerprint.
    evaluation : Evaluation, optional
        What is computed on held-back images: entries of the history.
    """
    if params["checkpoint"] is None:
        return None
    loss = resolve_loss(params["loss"])
    compared = _without(params, PARAMS_NOT_IN_FINGERPRINT)
    reader = make_reader(compared.pop("reader"), params["reader_params"] or {})
    compared["reader_params"] = _without(vars(reader), READER_NOT_IN_FINGERPRINT)
    before = _without(before or {}, ("seconds", "meter"))
    packages = [importlib.import_module(name) for name in PACKAGES]
    digits = team.from_first(
        lambda: fingerprint(
            compared,
            dict(resolved),
            loss,
            (source.identity(), labels, evaluation and evaluation.identity()),
            before,
            packages,
        )
    )
    _warn_if_never_found_again({**compared, "loss": loss})
    return Checkpoint(
        given_path("checkpoint", params["checkpoint"]), loss_name(params["loss"]), digits, source
    )


def earlier_training(
    checkpoint: Checkpoint | None,
    state: dict[str, Any] | None,
    history: list[dict[str, Any]],
    *,
    stopped_by_callbacks: bool,
    drawn_anew: bool,
    team: Team,
) -> tuple[dict[str, Any] | None, bool]:
    """Return the training that a fit goes on with, and whether it is from the checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint or None
    state, history : dict or None, list of dict
        State of a warm start, and its epochs.
    stopped_by_callbacks : bool
        Whether callbacks may still end the training, as they did in the checkpoint.
    drawn_anew : bool
        Whether each fit has a seed of its own: then a finished training is not taken from a file.
    team : Team
        Processes of the training; the first reads the file.

    Returns
    -------
    earlier : dict or None
        As `SSLNet.resume` takes it; None at a start.
    from_checkpoint : bool
    """
    # The first process decides for all: their callbacks and random states may differ.
    earlier, stopped_by_callbacks, drawn_anew = team.from_first(
        lambda: (checkpoint and checkpoint.read(), stopped_by_callbacks, drawn_anew)
    )
    if earlier and earlier["finished"] == "callback" and not stopped_by_callbacks:
        earlier["finished"] = None  # nobody wants it to end there any more
    if checkpoint and earlier and not (earlier["finished"] and drawn_anew):
        warn(_about_checkpoint(checkpoint, earlier))
        return earlier, True
    if state is None:
        return None, False
    # A copy: an optimizer goes on to change the very tensors that it loads, and this fit may fail.
    return {"training": copy.deepcopy(state), "history": history, "finished": None, "bad": {}}, False


def is_state_of(training: Mapping[str, Any], weights: Mapping[str, Tensor]) -> bool:
    """Return whether a backbone has the weights that a training has left: it may have been changed since."""
    parts = ((training["student"], "backbone."), (training["teacher"] or {}, "average.backbone."))
    return any(
        all(
            prefix + key in part and torch.equal(part[prefix + key].cpu(), value.cpu())
            for key, value in weights.items()
        )
        for part, prefix in parts
    )


def resume(net: SSLNet, earlier: dict[str, Any], checkpoint: Checkpoint | None) -> SSLNet:
    """Let a net go on with an earlier training.

    Raises
    ------
    ValueError
        It was another network, loss or optimizer.
    """
    try:
        return net.resume(earlier)
    except (KeyError, RuntimeError, ValueError) as error:
        if checkpoint:
            raise ValueError(
                f"{checkpoint.path} is of another network, loss or optimizer than this fit: was their code "
                f"changed? Delete it to train from the start. {error}"
            ) from error
        raise cannot_go_on(_difference(net, earlier["training"])) from error


def _difference(net: SSLNet, training: Mapping[str, Any]) -> str:
    """Return in words which part of a net an earlier training does not fit."""
    parts = {"network": (net.module_, training["student"]), "loss": (net.criterion_, training["loss"])}
    for name, (module, state) in parts.items():
        found = mismatches(module.state_dict(), state)
        if found:
            return f"the {name} is another ({found})"
    return "the optimizer has other settings, or other weights to train"


def _warn_if_never_found_again(params: Mapping[str, Any]) -> None:
    """Warn of a checkpoint that no other process can find."""
    places = told_by_address(params)
    if places:
        warn(
            f"No other process will resume from the checkpoint of this fit: it cannot tell "
            f"whether {', '.join(places)} is the same, as its representation is an address in memory. Use an "
            f"object that is described by its attributes, or create it where it is used."
        )


def _about_checkpoint(checkpoint: Checkpoint, earlier: dict[str, Any]) -> str:
    steps = earlier["training"]["steps_done"]
    if not earlier["finished"]:
        return f"This fit resumes from {checkpoint.path}, after {steps} steps."
    return (
        f"This fit is taken from {checkpoint.path}, after {steps} steps: parameters, images, versions of "
        f"packages, and the code of functions and classes with the values it refers to are the same. What "
        f"code reads elsewhere was not compared: if that has changed, delete the file to train again."
    )


def _without(items: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in items.items() if name not in names}
