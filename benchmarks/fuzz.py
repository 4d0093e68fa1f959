"""Damaged files and wrong parameters: is each accepted, or rejected with an error message of this package?

    python benchmarks/fuzz.py --images 10000 --models 2000
    python benchmarks/fuzz.py --parameters

Image files of nine formats, model files and checkpoints are damaged at random (bits flipped in the header or
anywhere, parts removed or duplicated, truncation, another format's suffix, headers that claim gigapixels) and
read by a process limited to --gigabytes of memory and --seconds per file. The program counts how many were
read and how many rejected, and reports and keeps the files of all other outcomes: another exception, a crash,
a hang. A model or checkpoint that can be read is compared with the intact one, bit for bit. With
--parameters, wrong values of every parameter are tried instead: see fuzz_parameters.py.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import resource
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from pathlib import Path

import fuzz_parameters
import numpy as np
import torch
from PIL import Image
from torch import nn

from sklearn_ssl import SSLImageEmbedder, load
from sklearn_ssl._hashing import fingerprint
from sklearn_ssl._models.container import ArchiveError, read_archive
from sklearn_ssl._training.checkpoint import KIND

FORMATS = ("png", "jpg", "gif", "bmp", "tif", "webp", "jp2", "ppm", "npy")
PIECE = 500  # number of files that one process reads


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=2_000)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--parameters", action="store_true", help="test wrong parameters instead of files")
    parser.add_argument("--keep", default="fuzz_failures")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)  # one piece, in a separate process
    args = parser.parse_args()
    if args.run:
        read_piece(**args.run)
        return
    if args.parameters:
        fuzz_parameters.main()
        return
    for what, n in (("images", args.images), ("models", args.models)):
        outcomes: Counter = Counter()
        for first in range(0, n, PIECE):
            outcomes.update(piece(args, what, first, min(PIECE, n - first)))
            print(f"{what}: {dict(outcomes)}", flush=True)


def piece(args: argparse.Namespace, what: str, first: int, n: int) -> Counter:
    """Count the outcomes of some files; after a crash, a new process continues with the next file."""
    outcomes: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        begin, end = first, first + n
        while begin < end:
            limits = dict(gigabytes=args.gigabytes, seconds=args.seconds)
            run = dict(what=what, first=begin, n=end - begin, folder=folder, **limits)
            command = [sys.executable, "-W", "ignore", __file__, "--run", json.dumps(run)]
            done = subprocess.run(command, capture_output=True, text=True)
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            outcomes.update(line["outcome"] for line in lines)
            begin = lines[-1]["number"] + 1 if lines else begin
            if done.returncode != 0:
                outcomes["crashed or hung"] += 1
                print(f"number {begin}: {done.stderr[-1500:]}", flush=True)
                begin += 1
            for line in lines:
                if line["outcome"] == "other":
                    keep(args.keep, line)
    return outcomes


def keep(folder: str, line: dict) -> None:
    Path(folder).mkdir(exist_ok=True)
    path = Path(folder) / f"{line['number']}{Path(line['path']).suffix}"
    path.write_bytes(bytes.fromhex(line["bytes"]))
    print(f"{path}: {line['error']}", flush=True)


def read_piece(what: str, first: int, n: int, folder: str, gigabytes: float, seconds: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    subject = ImageFiles(folder) if what == "images" else ModelFiles(folder)
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for number in range(first, first + n):
        path = subject.damaged(np.random.default_rng(number))
        faulthandler.dump_traceback_later(seconds, exit=True)
        outcome, error = outcome_of(subject, path)
        faulthandler.cancel_dump_traceback_later()
        line = {"number": number, "outcome": outcome, "path": str(path), "error": error}
        if outcome == "other":
            line["bytes"] = path.read_bytes().hex()
        print(json.dumps(line), flush=True)


def outcome_of(subject: ImageFiles | ModelFiles, path: Path) -> tuple[str, str]:
    try:
        subject.read(path)
    except (ValueError, ArchiveError) as error:
        named = str(path) in str(error) or "Give images of one kind" in str(error)
        return ("refused" if named else "other"), repr(error)[:500]
    except Exception as error:
        return "other", repr(error)[:500]
    return "read", ""


# ------------------------------------------------------------------ subjects


class ImageFiles:
    """Damaged image files, each read together with an intact one."""

    def __init__(self, folder: str):
        self.folder = Path(folder)
        rng = np.random.default_rng(0)
        photo = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48)))
        self.good = self.folder / "good.png"
        Image.fromarray(photo).save(self.good)
        self.whole = {kind: encoded(photo, kind) for kind in FORMATS}

    def damaged(self, rng: np.random.Generator) -> Path:
        kind, name = rng.choice(FORMATS), rng.choice(FORMATS)
        path = self.folder / f"damaged.{name if rng.random() < 0.1 else kind}"
        path.write_bytes(giant() if rng.random() < 0.02 else damage(self.whole[kind], rng))
        return path

    def read(self, path: Path) -> None:
        source, _ = SSLImageEmbedder()._parser().open_for_training([self.good, path])
        source.batch(torch.arange(2))


def encoded(photo: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, photo)
    else:
        name = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(kind, kind.upper())
        Image.fromarray(photo).save(file, name)
    return file.getvalue()


def giant() -> bytes:
    """Return a PNG whose header claims 1.6 gigapixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + header + crc + b"\0\0\1\0IDAT" + bytes(100)


class ModelFiles:
    """Damaged models and checkpoints of a small network."""

    def __init__(self, folder: str):
        self.folder = Path(folder)
        images = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
        runs = self.folder / "runs"
        fitted = SSLImageEmbedder(
            backbone=backbone, max_epochs=1, batch_size=4, random_state=0, device="cpu", checkpoint=runs
        ).fit(images)
        fitted.save(self.folder / "model.safetensors")
        self.whole = {
            "model": (self.folder / "model.safetensors").read_bytes(),
            "checkpoint": next(runs.glob("*.safetensors")).read_bytes(),
        }
        self.expected = {}
        for kind, whole in self.whole.items():
            path = self.folder / f"{kind}.whole"
            path.write_bytes(whole)
            self.expected[kind] = self._content(path, kind)

    def damaged(self, rng: np.random.Generator) -> Path:
        kind = rng.choice(list(self.whole))
        path = self.folder / f"damaged.{kind}"
        path.write_bytes(damage(self.whole[kind], rng))
        return path

    def read(self, path: Path) -> None:
        kind = path.suffix[1:]
        if self._content(path, kind) != self.expected[kind]:
            raise RuntimeError("wrong weights")

    def _content(self, path: Path, kind: str) -> str:
        if kind == "checkpoint":
            return fingerprint(read_archive(path, KIND))
        return fingerprint(load(path, backbone=backbone).encoder_)


def backbone(in_channels: int) -> nn.Module:
    layers = nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


# ------------------------------------------------------------------ damage


def damage(whole: bytes, rng: np.random.Generator) -> bytes:
    kind, at, length = rng.integers(6), int(rng.integers(len(whole))), int(rng.integers(1, 60))
    if kind < 3:
        changed = bytearray(whole)
        area = min(len(whole), 100) if kind else len(whole)
        for position in rng.integers(area, size=rng.integers(1, 6)):
            changed[position] = rng.integers(256) if kind == 2 else changed[position] ^ 1 << rng.integers(8)
        return bytes(changed)
    if kind == 3:
        return whole[:at]
    if kind == 4:
        return whole[:at] + whole[at + length :]
    return whole[: at + length] + whole[at:]


if __name__ == "__main__":
    main()
