"""Address of the documentation, from the metadata of the installed package."""

from __future__ import annotations

import functools
from importlib import metadata


@functools.cache
def documentation_url() -> str | None:
    """Return the project's URL that is labeled "Documentation"; None if there is none."""
    try:
        urls = metadata.metadata("sklearn-ssl").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return None
    named = dict(url.split(", ", 1) for url in urls)
    return named.get("Documentation", "").rstrip("/") or None
