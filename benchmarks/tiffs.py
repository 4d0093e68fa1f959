"""TIFFs of every kind: are they read to the values that were written, or refused with a remedy?

    python benchmarks/tiffs.py

Writes some sixteen thousand small TIFFs with tifffile, rasterio (GDAL) and Pillow: dtype x bands x
compression x predictor x interleave x strips or tiles x bits x photometric x alpha x byte order x BigTIFF.
Each is read by this package, in a separate process: with all libraries, without imagecodecs, and without
tifffile. Prints how many were right, refused with a remedy, refused without one, and accepted with other
values, and the latter two by name.

A file holds what was given to its writer, or what both rasterio and tifffile read if that is something else:
some writers are wrong. This is brought to pixels as docs/images.md says: 1, 2 and 4 bits to the range of 8,
white as 0 to black as 0, palettes and CMYK to RGB, transparency over white. CMYK, and lossy compression, may
differ by a few levels.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 20, 37  # neither is a multiple of the tiles or of 8
REMEDY = re.compile(r"pip install|reader__read|save (it|each)|\.npy|convert")
KINDS = RIGHT, REFUSED, NO_REMEDY, OTHER = "right", "refused", "refused without a remedy", "OTHER VALUES"
LOSSY = ("jpeg", "webp")


@dataclass
class Stored:
    """What a TIFF holds: values (height, width, bands), and what they mean."""

    values: np.ndarray
    bits: int
    photometric: str = "minisblack"
    alpha: str = ""  # "unassalpha", "assocalpha"
    colors: np.ndarray | None = None  # (n, 3) of a palette
    tolerance: float = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--show", type=int, default=10, help="number of files and messages to print")
    parser.add_argument("--every", type=int, default=1, help="write one of so many files")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)  # in a separate process
    parser.add_argument("--without", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.read:
        read_all(args.read, args.without, args.show)
        return
    packages = ("Pillow", "tifffile", "imagecodecs", "rasterio", "numpy")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder), args.every)
        for without in ("", "imagecodecs", "tifffile"):
            options = ["--read", folder, "--without", without, "--show", str(args.show)]
            subprocess.run([sys.executable, __file__, *options], check=True)


# ------------------------------------------------------------------ reading


def read_all(folder: Path, without: str, show: int) -> None:
    """Read each file with the package, and print what came of it."""
    if without:
        sys.modules[without] = None  # type: ignore[assignment]  # as if it were not installed
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for path in sorted(folder.glob("*.tif")):
        label, stored = pickle.loads(path.with_suffix(".pickle").read_bytes())
        kind, what = outcome(path, stored)
        found[kind].append(what if kind == REFUSED else f"{label}: {what}")
    print(f"\nwithout {without}" if without else "\nwith all libraries", end=": ")
    print(", ".join(f"{len(names):,} {kind}" for kind, names in found.items()))
    for name in found[NO_REMEDY][:show] + found[OTHER][:show]:
        print(f"  {name}")
    for reason, count in Counter(found[REFUSED]).most_common(show):
        print(f"  {count:5} x {reason[:150]}", flush=True)


def outcome(path: Path, stored: Stored) -> tuple[str, str]:
    from sklearn_ssl._images.decode import header_of, pixels_of_encoded

    try:
        header = header_of(path)
        read = pixels_of_encoded(path, None, header.channels, 10**6, "white")
    except Exception as error:
        return REFUSED if REMEDY.search(str(error)) else NO_REMEDY, f"{type(error).__name__}: {error}"
    expected = as_documented(stored)
    is_8_bit = expected.dtype == np.uint8
    right = is_8_bit == (read.dtype == np.uint8) == (not header.deep)
    right = right and are_close(read, expected, stored.tolerance, rtol=1e-6 if stored.alpha else 0)
    return RIGHT if right else OTHER, f"{read.shape} {read.dtype}, not {expected.shape} {expected.dtype}"


def as_documented(stored: Stored) -> np.ndarray:
    """Bring what a file holds to the pixels that docs/images.md promises, (height, width, channels)."""
    values, top = stored.values, 2**stored.bits - 1
    if stored.photometric == "miniswhite":
        values = (top - values.astype(np.uint64)).astype(values.dtype)
    if stored.colors is not None:
        return stored.colors[values[..., 0].astype(int)]
    if stored.bits in (1, 2, 4):
        values, top = values.astype(np.uint8) * np.uint8(255 // top), 255
    if stored.photometric in ("cmyk", "separated"):
        ink = values.astype(np.float64) / 255
        return np.rint(255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])).astype(np.uint8)
    if stored.alpha:
        share = values[..., -1:] / top
        colors = values[..., :-1] * (share if stored.alpha == "unassalpha" else 1) + (1 - share) * top
        return np.rint(colors).astype(np.uint8) if top == 255 else colors
    return values


# ------------------------------------------------------------------ writing


def write_all(folder: Path, every: int) -> None:
    """Write the files and what they hold; print how many."""
    counts: Counter[str] = Counter()
    writers = {write_tifffile: OF_TIFFFILE, write_rasterio: OF_RASTERIO, write_pillow: OF_PILLOW}
    for writer, grids in writers.items():
        writer_name = writer.__name__.removeprefix("write_")
        cases = itertools.chain.from_iterable(grid(**axes) for axes in grids)
        for i, options in enumerate(itertools.islice(cases, 0, None, every)):
            path = folder / f"{writer_name}{i:05}.tif"
            try:
                stored = writer(path, **options)
            except Exception:  # not every library writes every combination
                path.unlink(missing_ok=True)
                continue
            counts[writer_name] += 1
            counts["read by tifffile and rasterio to other values than were written"] += differs(path, stored)
            named = (f"{name}={value}" for name, value in options.items() if value not in (None, False))
            path.with_suffix(".pickle").write_bytes(pickle.dumps((f"{path.stem} {' '.join(named)}", stored)))
    print("files: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()), flush=True)


def differs(path: Path, stored: Stored) -> bool:
    """Return whether tifffile and rasterio both read something else, which then counts as stored."""
    read = []
    with suppress(Exception):  # what one of them does not read is not compared
        read = [by_tifffile(path), by_rasterio(path)]
    # rasterio shows CMYK as RGB; and LERC loses what becomes NaN when its bytes are swapped.
    if not read or stored.photometric in ("cmyk", "separated"):
        return False
    slack = stored.tolerance if stored.tolerance > 2 else 1e-30
    if are_close(read[0], stored.values, slack) or not are_close(*read, slack):
        return False
    stored.values = read[0].astype(stored.values.dtype)
    return True


def are_close(a: np.ndarray, b: np.ndarray, tolerance: float, rtol: float = 0) -> bool:
    a, b = (x.astype(np.complex128 if x.dtype.kind == "c" else np.longdouble) for x in (a, b))
    return a.shape == b.shape and np.allclose(a, b, rtol=rtol, atol=tolerance, equal_nan=True)


def by_tifffile(path: Path) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        array = tiff.pages[0].asarray(squeeze=False)  # (planes, 1, height, width, samples)
    return array[:, 0].transpose(1, 2, 0, 3).reshape(HEIGHT, WIDTH, -1)


def by_rasterio(path: Path) -> np.ndarray:
    import rasterio

    with rasterio.open(path) as file:
        return file.read().transpose(1, 2, 0)


def grid(**axes: Any) -> Iterator[dict[str, Any]]:
    """Yield every combination of the values of the axes."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def random_values(dtype: str, bands: int, bits: int | None = None) -> np.ndarray:
    """Return values (height, width, bands) that use all bits of a dtype, or the lower ones."""
    rng, kind = np.random.default_rng(bands), np.dtype(dtype)
    shape = (HEIGHT, WIDTH, bands)
    if kind.kind == "b":
        return rng.random(shape) > 0.5
    if kind.kind == "u":
        return rng.integers(0, 2 ** (bits or bits_of(dtype)) - 1, shape, kind, endpoint=True)
    if kind.kind == "i":
        return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)
    values = rng.normal(0, 300, shape)
    values[3, 4] = np.nan
    return (values + 1j * rng.normal(0, 300, shape) if kind.kind == "c" else values).astype(kind)


def smooth_values(bands: int) -> np.ndarray:
    """Return 8-bit values that lossy compression keeps within a few levels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([3 * x + 4 * y + 10 * band for band in range(bands)], axis=-1).astype(np.uint8)


def bits_of(dtype: str) -> int:
    return 1 if dtype == "bool" else int(re.sub(r"\D", "", dtype))


INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
DTYPES = ("bool", *INTEGERS, "float16", "float32", "float64", "complex64")
PACKED_BITS = (*range(1, 8), *range(9, 16))
PLANES, TILES, ORDERS = ("contig", "separate"), (None, (16, 16)), ("<", ">")
LAYOUT = {"compression": (None, "zlib", "lzw"), "tile": TILES, "byteorder": ORDERS}
RGB, BLACK, WHITE = ("rgb",), ("minisblack",), ("miniswhite",)
OF_TIFFFILE: list[dict[str, Any]] = [
    {
        "dtype": DTYPES,
        "bands": range(1, 6),
        "planarconfig": PLANES,
        "compression": (None, "zlib", "lzw", "packbits", "zstd", "lzma"),
        "predictor": (False, True),
        "tile": TILES,
        "byteorder": ORDERS,
    },
    {"dtype": DTYPES, "bands": (1, 2), "photometric": WHITE, **LAYOUT},
    {"dtype": DTYPES, "bands": (1,), "bigtiff": (True,), **LAYOUT},
    {"dtype": DTYPES, "bands": (3,), "photometric": RGB, "planarconfig": PLANES, **LAYOUT},
    {
        "dtype": DTYPES,
        "bands": (4,),
        "photometric": RGB,
        "planarconfig": PLANES,
        "extrasamples": (("unassalpha",), ("assocalpha",), ("unspecified",)),
        **LAYOUT,
    },
    {
        "dtype": DTYPES,
        "bands": (2,),
        "planarconfig": PLANES,
        "extrasamples": (("unassalpha",), ("assocalpha",)),
        **LAYOUT,
    },
    {
        "dtype": DTYPES,
        "bands": (5,),
        "photometric": RGB,
        "planarconfig": PLANES,
        "extrasamples": (("unspecified",) * 2,),
        **LAYOUT,
    },
    {
        "dtype": ("uint8", "uint16"),
        "bands": (4, 5),
        "photometric": ("separated",),
        "planarconfig": PLANES,
        **LAYOUT,
    },
    {"dtype": ("uint8", "uint16"), "bands": (1,), "photometric": ("palette",), **LAYOUT},
    {"bitspersample": PACKED_BITS, "bands": (1, 5), "photometric": BLACK, **LAYOUT},
    {"bitspersample": PACKED_BITS, "bands": (1,), "photometric": WHITE, **LAYOUT},
    {"bitspersample": PACKED_BITS, "bands": (3,), "photometric": RGB, **LAYOUT},
    {
        "dtype": ("uint8", "uint16", "int16", "float32"),
        "bands": range(1, 6),
        "photometric": (*BLACK, *RGB),
        "planarconfig": PLANES,
        "compression": ("lerc", "jpegxl", "jpeg2000", "png", "webp"),
        "tile": TILES,
    },
    {
        "dtype": DTYPES,
        "bands": (1, 3),
        "photometric": (*BLACK, *WHITE, *RGB),
        "tile": TILES,
        "byteorder": ORDERS,
        "reversed_bits": (True,),
    },
    {"bands": (1, 3), "photometric": (*BLACK, *RGB), "compression": ("jpeg",), "tile": TILES},
    {"bands": (3,), "photometric": ("ycbcr",), "compression": ("jpeg",)},
]


def write_tifffile(
    path: Path,
    bands: int,
    dtype: str | None = None,
    bitspersample: int | None = None,
    photometric: str = "minisblack",
    planarconfig: str = "contig",
    extrasamples: tuple[str, ...] = (),
    reversed_bits: bool = False,
    **options: Any,
) -> Stored:
    import tifffile

    options = {name: value for name, value in options.items() if value is not None}
    if dtype == "bool" and bands > 1 and planarconfig == "contig":
        raise ValueError("tifffile writes these so that nothing reads them back")
    dtype = dtype or ("uint16" if (bitspersample or 8) > 8 else "uint8")
    compression = options.get("compression", "")
    stored = Stored(random_values(dtype, bands, bitspersample), bitspersample or bits_of(dtype), photometric)
    if compression == "jpeg":
        stored.values, stored.tolerance = smooth_values(bands), 12
    if photometric == "rgb" and bands == 4 and not extrasamples:
        extrasamples = ("unassalpha",)
    if extrasamples and extrasamples[-1] != "unspecified":
        stored.alpha, stored.tolerance = extrasamples[-1], 1.5
    if stored.alpha == "assocalpha" and stored.values.dtype.kind == "u":
        stored.values = np.minimum(stored.values, stored.values[..., -1:])
    if photometric == "separated":
        stored.tolerance = 2
    if photometric == "palette":
        stored.colors = np.random.default_rng(0).integers(0, 256, (2**stored.bits, 3)).astype(np.uint8)
        options["colormap"] = stored.colors.T.astype(np.uint16) * 257
    if compression == "webp":
        options["compressionargs"] = {"level": 101}  # lossless
    data = stored.values
    if photometric == "ycbcr":  # tifffile converts no colors
        data = np.asarray(Image.fromarray(data).convert("YCbCr"))
    if bands > 1:
        options["planarconfig"] = planarconfig
        data = np.moveaxis(data, 2, 0) if planarconfig == "separate" else data
    elif planarconfig == "separate":
        raise ValueError("tifffile writes no planes of a single channel")
    tifffile.imwrite(
        path,
        data if bands > 1 else data[..., 0],
        photometric=photometric,
        extrasamples=extrasamples or None,
        bitspersample=bitspersample,
        rowsperstrip=None if options.get("tile") else 7,
        extratags=[(265, "H", 1, 2, True)] if reversed_bits else [],
        metadata=None,
        **options,
    )
    if reversed_bits:
        reverse_bits(path)
    return stored


def reverse_bits(path: Path) -> None:
    """Store the bits of each byte of the pixels in reverse order; the tag 265 becomes 266, FillOrder."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page, order = tiff.pages[0], "little" if tiff.byteorder == "<" else "big"
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        at = page.tags[265].offset
    content = bytearray(path.read_bytes())
    content[at : at + 2] = (266).to_bytes(2, order)
    for offset, size in parts:
        bits = np.unpackbits(np.frombuffer(content[offset : offset + size], np.uint8).reshape(-1, 1), axis=1)
        content[offset : offset + size] = np.packbits(bits[:, ::-1], axis=1).tobytes()
    path.write_bytes(content)


GDAL_DTYPES = (*INTEGERS, "float32", "float64", "complex64")
GDAL_LAYOUT = {
    "interleave": ("band", "pixel"),
    "compress": ("none", "deflate", "lzw"),
    "tiled": (False, True),
}
FEW = ("uint8", "uint16", "int16", "float32")
OF_RASTERIO: list[dict[str, Any]] = [
    {
        "dtype": GDAL_DTYPES,
        "bands": range(1, 6),
        **GDAL_LAYOUT,
        "compress": ("none", "deflate", "lzw", "packbits", "zstd", "lzma", "lerc", "lerc_deflate"),
        "endianness": ("little", "big"),
    },
    {
        "dtype": GDAL_DTYPES,
        "bands": range(1, 6),
        **GDAL_LAYOUT,
        "compress": ("deflate", "lzw", "zstd"),
        "predictor": (2, 3),
        "endianness": ("little", "big"),
    },
    {
        "nbits": PACKED_BITS,
        "bands": (1, 4, 5),
        "photometric": (*BLACK, *WHITE),
        "endianness": ("little", "big"),
        **GDAL_LAYOUT,
    },
    {
        "nbits": PACKED_BITS,
        "bands": (3,),
        "photometric": RGB,
        "endianness": ("little", "big"),
        **GDAL_LAYOUT,
    },
    {
        "dtype": FEW,
        "bands": (1, 3, 4),
        "photometric": (*BLACK, *WHITE),
        "bigtiff": ("no", "yes"),
        **GDAL_LAYOUT,
    },
    {"dtype": FEW, "bands": (3, 4), "photometric": RGB, "bigtiff": ("no", "yes"), **GDAL_LAYOUT},
    {"dtype": FEW, "bands": (4,), "photometric": ("cmyk",), "bigtiff": ("no", "yes"), **GDAL_LAYOUT},
    {"dtype": FEW, "bands": (1, 3, 5), "sparse_ok": (True,), "nodata": (None, 7), **GDAL_LAYOUT},
    {"bands": (1,), "palette": (True,), **GDAL_LAYOUT},
    {"bands": (1, 4), **GDAL_LAYOUT, "compress": ("jpeg", "webp", "jxl")},
    {
        "bands": (3,),
        "photometric": (*RGB, "ycbcr"),
        **GDAL_LAYOUT,
        "compress": ("jpeg", "webp", "jxl"),
    },
]


def write_rasterio(
    path: Path, bands: int, dtype: str | None = None, palette: bool = False, **options: Any
) -> Stored:
    import rasterio

    nbits, photometric = options.get("nbits"), options.get("photometric", "minisblack")
    dtype = dtype or ("uint16" if (nbits or 8) > 8 else "uint8")
    stored = Stored(random_values(dtype, bands, nbits), nbits or bits_of(dtype), photometric)
    if options["compress"] in LOSSY:
        stored.values, stored.tolerance = smooth_values(bands), 12
        options |= {"jpeg_quality": 95, "webp_level": 95}
    elif photometric == "cmyk":
        stored.tolerance = 2
    # GDAL declares the fourth of four 8-bit bands alpha, unless it is told otherwise.
    if bands == 4 and (photometric == "rgb" or (dtype == "uint8" and "photometric" not in options)):
        stored.alpha, stored.tolerance = "unassalpha", stored.tolerance + 1.5
    options |= {"blockxsize": 16, "blockysize": 16} if options["tiled"] else {"blockysize": 7}
    window = None
    if options.get("sparse_ok"):  # only the blocks below row 16 are stored
        stored.values[:16] = options["nodata"] or 0
        window = rasterio.windows.Window(0, 16, WIDTH, HEIGHT - 16)
    shape = {"height": HEIGHT, "width": WIDTH, "count": bands}
    with rasterio.open(path, "w", driver="GTiff", dtype=dtype, **shape, **options) as file:
        if palette:
            stored.colors = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
            file.write_colormap(1, {i: (*map(int, color), 255) for i, color in enumerate(stored.colors)})
        file.write(stored.values[16 if window else 0 :].transpose(2, 0, 1), window=window)
    return stored


OF_PILLOW: list[dict[str, Any]] = [
    {
        "mode": ("1", "L", "LA", "P", "I;16", "I;16B", "I", "F", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"),
        "compression": ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma", *LOSSY),
        "big_tiff": (False, True),
    },
    {"mode": ("1",), "compression": ("group3", "group4"), "big_tiff": (False, True)},
]


def write_pillow(path: Path, mode: str, compression: str, big_tiff: bool) -> Stored:
    tolerance = 16 if compression in LOSSY else 0
    make = (lambda bands: smooth_values(bands)) if tolerance else lambda bands: random_values("uint8", bands)
    dtype = {"I;16": "uint16", "I;16B": ">u2", "I": "int32", "F": "float32", "LAB": "uint8"}.get(mode)
    if dtype:
        data = random_values(dtype, 3 if mode == "LAB" else 1).tobytes()
        image = Image.frombytes(mode, (WIDTH, HEIGHT), data)
    else:
        image = Image.fromarray(make(3)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(make(1)[..., 0]))
    image.save(path, compression=compression, big_tiff=big_tiff)
    values = np.asarray(image.convert("RGB") if mode == "YCbCr" else image)
    values = values[..., None] if values.ndim == 2 else values
    stored = Stored(values, 1 if mode == "1" else 8 * values.dtype.itemsize, tolerance=tolerance)
    if mode in ("LA", "RGBA"):
        stored.alpha, stored.tolerance = "unassalpha", tolerance + 1.5
    if mode == "P":
        stored.colors = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    if mode == "CMYK":
        stored.photometric, stored.tolerance = "cmyk", tolerance + 2
    if mode == "YCbCr":
        stored.tolerance = 90 if tolerance else 4
    return stored


if __name__ == "__main__":
    main()
