"""Pages that are made from the registry: one for each installed loss, and their index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sklearn_ssl import LossInfo, available_losses, get_loss
from sklearn_ssl.losses import SSLLoss

# Attributes of a method that its page lists if they differ from those of SSLLoss.
DECLARED = {
    "view_spec": "Views",
    "teacher_momentum": "Teacher",
    "uses_labels": "Uses labels",
    "encoder": "Embeddings are those of",
}


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}


def write_pages(app: Any) -> None:
    folder = Path(app.srcdir) / "losses"
    folder.mkdir(exist_ok=True)
    infos = {name: info for name, info in available_losses(details=True).items() if info.error is None}
    for page in folder.glob("*.rst"):
        if page.stem not in (*infos, "index"):
            page.unlink()  # of a loss that is no longer installed
    for name, info in infos.items():
        write(folder / f"{name}.rst", loss_page(info))
    write(folder / "index.rst", index_page(infos))


def write(path: Path, text: str) -> None:
    """Write a page if it has changed, so that an unchanged one is not built again."""
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"


def loss_page(info: LossInfo) -> str:
    package = "built in" if info.distribution == "sklearn-ssl" else f"``pip install {info.distribution}``"
    target = info.target.replace(":", ".")
    facts = [f":loss: ``SSLImageEmbedder(loss={info.name!r})``", f":package: {package}", *declared(info.name)]
    return "\n".join(
        [
            f".. _loss-{info.name}:\n",
            heading(info.name),
            *facts,
            "",
            f".. autoclass:: {target}",
            "   :no-members:",
            "   :no-inherited-members:",
            "",
        ]
    )


def declared(name: str) -> list[str]:
    """Return a line for each declaration of the method, and for the values that it sets for "auto"."""
    loss = get_loss(name)
    lines = []
    for attribute, title in DECLARED.items():
        value = getattr(loss, attribute, None)
        if value not in (None, getattr(SSLLoss, attribute)):
            lines.append(f":{title}: {described(attribute, value)}")
    defaults = {key: value for key, value in getattr(loss, "defaults", {}).items() if not callable(value)}
    if defaults:
        settings = ", ".join(f"``{key}={value!r}``" for key, value in defaults.items())
        lines.append(f':Values for "auto": {settings}')
    return lines


def described(attribute: str, value: Any) -> str:
    if attribute == "view_spec":
        local = f" and {value.local} local crops" if value.local else ""
        return f"{value.n} at full size{local}"
    if attribute == "teacher_momentum":
        return "moving average of the network"
    return "yes" if value is True else f"the {value}"


def index_page(infos: dict[str, LossInfo]) -> str:
    rows = [
        f"   * - :doc:`{name}`\n     - {info.summary}\n     - {info.distribution}"
        for name, info in infos.items()
    ]
    pages = [f"   {name}" for name in infos]
    return "\n".join(
        [
            heading("Parameters of each loss"),
            "Values of the parameter ``loss`` of :class:`sklearn_ssl.SSLImageEmbedder`. The arguments of the",
            "class are its nested parameters, such as ``loss__temperature``.\n",
            ".. list-table::",
            "   :header-rows: 1",
            "   :widths: 20 60 20\n",
            "   * - loss\n     - method\n     - package",
            *rows,
            "",
            ".. toctree::",
            "   :hidden:\n",
            *pages,
            "",
        ]
    )
