"""Export of encoders to ONNX."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from sklearn_ssl._filesystem import replace_file
from sklearn_ssl._networks.inference import detached_copy


def export_onnx(encoder: nn.Module, image_shape: tuple[int, int, int], path: str | os.PathLike) -> None:
    """Write an encoder to one ONNX file with a dynamic batch size.

    The input is "images" (n, *image_shape), the output "embeddings" (n, d).

    Raises
    ------
    ImportError
        If a package that torch needs for the export is missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f'to_onnx needs {" and ".join(missing)}: pip install "sklearn-ssl[onnx]".')
    encoder = detached_copy(encoder).cpu().eval()
    replace_file(path, lambda new: _export(encoder, image_shape, new))


def _export(encoder: nn.Module, image_shape: tuple[int, int, int], path: Path) -> None:
    torch.onnx.export(
        encoder,
        (torch.zeros(2, *image_shape),),
        path,
        input_names=["images"],
        output_names=["embeddings"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        external_data=False,
        dynamo=True,
        verbose=False,
    )
