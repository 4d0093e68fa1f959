"""Descriptions of the available losses, and the table in which notebooks show them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LossInfo:
    """Description of an available loss, as `available_losses` returns it.

    Parameters
    ----------
    name : str
        Value for the parameter `loss`: the name of the entry point, or "distribution:name" if several
        distributions share the name.
    distribution : str
        Name of the distribution that provides the loss; empty for a name given by `register_loss`.
    version : str
        Version of the distribution; empty for a name given by `register_loss`.
    target : str
        Location of the loss, as "module:attribute".
    family : str or None, default=None
        Attribute `family` of the loss, or else its distribution; only with ``details=True``.
    summary : str or None, default=None
        First line of the loss's docstring; only with ``details=True``.
    parameters : dict of str to object or None, default=None
        Hyperparameters, ``loss__<name>`` in the embedder, with their defaults; only with ``details=True``.
    error : str or None, default=None
        Message of the error if the loss cannot be imported; only with ``details=True``.

    See Also
    --------
    available_losses : List the available losses.
    """

    name: str
    distribution: str
    version: str
    target: str
    family: str | None = None
    summary: str | None = None
    parameters: Mapping[str, Any] | None = field(default=None, hash=False)
    error: str | None = None


class LossTable(Mapping[str, LossInfo]):
    """Read-only mapping of names to losses, which notebooks show as a table.

    Parameters
    ----------
    infos : iterable of LossInfo
        Losses, in the order of the table.
    """

    def __init__(self, infos: Iterable[LossInfo]):
        self._infos = {info.name: info for info in infos}

    def __getitem__(self, name: str) -> LossInfo:
        return self._infos[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __repr__(self) -> str:
        return repr(self._infos)

    def _repr_html_(self) -> str:
        """Return the table for notebooks; columns that are empty for all losses are left out."""
        columns: dict[str, list[str | None]] = {
            "loss": [info.name for info in self._infos.values()],
            "family": [info.family for info in self._infos.values()],
            "summary": [info.summary or info.error for info in self._infos.values()],
            "parameters": [_written(info.parameters) for info in self._infos.values()],
            "distribution": [f"{info.distribution} {info.version}".strip() for info in self._infos.values()],
        }
        columns = {name: cells for name, cells in columns.items() if any(cells)}
        rows = [_row("th", columns), *(_row("td", cells) for cells in zip(*columns.values(), strict=True))]
        return f"<table>{''.join(rows)}</table>"


def _written(parameters: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in (parameters or {}).items())


def _row(kind: str, cells: Iterable[Any]) -> str:
    written = (f"<{kind}>{html.escape(str(cell or ''))}</{kind}>" for cell in cells)
    return f"<tr>{''.join(written)}</tr>"
