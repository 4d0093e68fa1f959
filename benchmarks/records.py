"""Results in a file, one JSON object per line, so that a benchmark can be stopped and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def key(setting: dict) -> str:
    """Return a string that identifies a setting, which is everything that a result depends on."""
    return json.dumps(setting, sort_keys=True)


def read(path: str) -> dict[str, dict]:
    """Return the results in a file by the keys of their settings; none if there is no file."""
    if not Path(path).exists():
        return {}
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {row.pop("key"): row for row in rows}


def add(path: str, setting: dict, result: dict) -> dict:
    """Add the result of a setting to a file, and return both as one row."""
    row = {**setting, **result}
    with Path(path).open("a") as file:
        file.write(json.dumps({"key": key(setting), **row}) + "\n")
    return row


def over_seeds(rows: list[dict], name: str) -> str:
    """Format the mean of a number over rows, with the range if there are several."""
    values = [row[name] for row in rows]
    span = f" ({min(values):.1f} - {max(values):.1f})" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{span}"
