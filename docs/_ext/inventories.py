"""Inventories of other projects for intersphinx, from lists of the names that the pages refer to."""

from __future__ import annotations

import zlib
from pathlib import Path

HEADER = (
    "# Sphinx inventory version 2\n# Project: {}\n# Version: \n# The remainder is compressed using zlib.\n"
)


def write_inventories(lists: Path, folder: Path) -> dict[str, tuple[str, str]]:
    """Write the inventory of each list, and return the value of `intersphinx_mapping`.

    The first line of a list is the URL of the project's documentation; each other line has the role and the
    name of an object, and its page relative to that URL. "$" stands for the name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for path in sorted(lists.glob("*.txt")):
        url, *entries = path.read_text("utf-8").splitlines()
        lines = (entry.split() for entry in entries if entry and not entry.startswith("#"))
        content = "".join(f"{name} {role} 1 {page} -\n" for role, name, page in lines)
        inventory = folder / f"{path.stem}.inv"
        inventory.write_bytes(HEADER.format(path.stem).encode() + zlib.compress(content.encode()))
        mapping[path.stem] = (url, str(inventory))
    return mapping
