"""TIFFs of every kind: are they read to the values that were written, or refused with a remedy?

    python benchmarks/tiffs.py

Writes some ten thousand small TIFFs with tifffile, rasterio (GDAL) and Pillow: dtype x bands x compression x
predictor x interleave x strips or tiles x bits x photometric interpretation x alpha x byte order x BigTIFF. Each
is read by this package, in a separate process: with all libraries, without imagecodecs, and without tifffile.
Prints how many were right, refused with a remedy, refused without one, and accepted with other values, and the
latter two by name.

What a file holds is what was given to its writer, and is compared with what rasterio and tifffile read; files that
one of them reads as something else are listed (`--show`). It is brought to pixels as `docs/images.md` says: fewer
than 8 bits to the range of 8, white as 0 to black as 0, palettes and CMYK to RGB, transparency over white. Lossy
compression, and CMYK, may differ by a few levels.
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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEIGHT, WIDTH = 20, 37  # neither is a multiple of the tiles or of 8
REMEDY = re.compile(r"pip install|reader__read|save (it|each)|\.npy|convert")
RUNS = ((), ("imagecodecs",), ("tifffile",))


@dataclass
class Stored:
    """What a TIFF holds: values (height, width, bands), and what they mean."""

    values: Any
    bits: int
    photometric: str = "minisblack"
    alpha: str = ""
    colors: Any = None  # of a palette, (n, 3)
    tolerance: float = 0
    name: str = ""
    notes: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=10, help="number of names to print of each kind")
    parser.add_argument("--every", type=int, default=1, help="write one of so many")
    parser.add_argument("--keep", type=Path, help="folder for the files, which are kept")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--without", action="append", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        print(read_all(args.read, args.without, args.show))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        print(write_all(folder, args.every, args.show), flush=True)
        for without in RUNS:
            options = [option for name in without for option in ("--without", name)]
            command = [sys.executable, __file__, "--read", str(folder), "--show", str(args.show), *options]
            subprocess.run(command, check=True)


# ------------------------------------------------------------------ reading


def read_all(folder: Path, without: list[str], show: int) -> str:
    """Read each file with the package; return the counts."""
    for name in without:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
    import numpy as np

    from sklearn_ssl._images.decode import header_of, pixels_of_encoded

    found: dict[str, list[str]] = {kind: [] for kind in ("right", "refused", "no remedy", "OTHER VALUES")}
    warnings.simplefilter("ignore")
    for path in sorted(folder.glob("*.tif")):
        stored = pickle.loads(path.with_suffix(".pickle").read_bytes())
        try:
            header = header_of(path)
            read = pixels_of_encoded(path, None, header.channels, 10**6, "white")
        except Exception as error:
            kind = "refused" if REMEDY.search(str(error)) else "no remedy"
            found[kind].append(f"{path.stem} {stored.name}: {type(error).__name__}: {error}")
            continue
        expected = as_documented(stored)
        same_kind = (read.shape, read.dtype == np.uint8) == (expected.shape, expected.dtype == np.uint8)
        right = same_kind and header.deep == (expected.dtype != np.uint8) and np.allclose(
            read.astype(np.float64), expected.astype(np.float64), rtol=1e-6, atol=stored.tolerance
        )
        what = f"{path.stem} {stored.name}: {read.shape} {read.dtype}, expected {expected.shape} {expected.dtype}"
        found["right" if right else "OTHER VALUES"].append(what)
    return report(found, without, show)


def report(found: dict[str, list[str]], without: list[str], show: int) -> str:
    title = f"without {', '.join(without)}" if without else "with all libraries"
    lines = [title + ": " + ", ".join(f"{len(names):,} {kind}" for kind, names in found.items())]
    for kind in ("no remedy", "OTHER VALUES"):
        lines += [f"  {kind}: {name}" for name in found[kind][:show]]
    reasons = Counter(re.sub(r"^.*?: \w+: ", "", name) for name in found["refused"])
    lines += [f"  refused {count:5}: {reason[:170]}" for reason, count in reasons.most_common(show)]
    return "\n".join(lines)


def as_documented(stored: Stored) -> Any:
    """Bring what a file holds to the pixels that docs/images.md promises, (height, width, channels)."""
    import numpy as np

    values, top = stored.values, 2**stored.bits - 1
    if stored.photometric == "miniswhite":
        values = (top - values.astype(np.uint64)).astype(values.dtype)
    if stored.photometric == "palette":
        return stored.colors[values[..., 0].astype(int)]
    if stored.bits in (1, 2, 4):
        values, top = values.astype(np.uint8) * (255 // top), 255
    if stored.photometric == "cmyk":
        ink = values.astype(np.float64) / 255
        return np.rint(255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])).astype(np.uint8)
    if stored.alpha:
        share = values[..., -1:] / top
        colors = values[..., :-1] * (share if stored.alpha == "unassociated" else 1) + (1 - share) * top
        return np.rint(colors).astype(np.uint8) if top == 255 else colors
    return values


# ------------------------------------------------------------------ writing


def write_all(folder: Path, every: int, show: int) -> str:
    """Write the files and what they hold; return how many, and the versions of the libraries."""
    import numpy as np
    import PIL

    warnings.simplefilter("ignore")
    versions, counts, odd = [f"Pillow {PIL.__version__}, numpy {np.__version__}"], Counter(), []
    for name, cases in (("tifffile", of_tifffile), ("rasterio", of_rasterio), ("imagecodecs", None), ("pillow", of_pillow)):
        try:
            versions.append(f"{name} {__import__(name).__version__}") if name != "pillow" else None
        except ImportError:
            versions.append(f"no {name}")
            continue
        for i, (label, write) in enumerate(cases() if cases else ()):
            if i % every:
                continue
            path = folder / f"{name}{i:05}.tif"
            try:
                stored = write(path)
            except Exception as error:  # not every library writes every combination
                path.unlink(missing_ok=True)
                counts[f"not written by {name}"] += 1
                if "-v" in sys.argv: print(label, str(error)[:100])
                continue
            stored.name = label
            if not agree(path, stored):
                odd.append(f"  {path.stem} {label}")
            path.with_suffix(".pickle").write_bytes(pickle.dumps(stored))
            counts[name] += 1
    lines = [", ".join(versions), ", ".join(f"{n:,} {what}" for what, n in counts.items())]
    lines += [f"{len(odd):,} files are read by tifffile or rasterio to other values than were written", *odd[:show]]
    return "\n".join(lines)


def agree(path: Path, stored: Stored) -> bool:
    """Return whether tifffile and rasterio read what was written; where both read the same instead, it counts."""
    import numpy as np

    read = []
    for reader in (by_tifffile, by_rasterio):
        with suppress(Exception):  # what one of them does not read is not compared
            read.append(reader(path))
    if stored.tolerance or stored.photometric in ("cmyk", "palette") or not read:
        return True
    if len(read) == 2 and np.array_equal(*read):
        right = np.array_equal(read[0], stored.values)
        stored.values = read[0].astype(stored.values.dtype)
        return right
    return all(np.array_equal(values, stored.values) for values in read)


def by_tifffile(path: Path) -> Any:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        array = tiff.pages[0].asarray(squeeze=False)  # (planes, 1, height, width, samples)
    return array[:, 0].transpose(1, 2, 0, 3).reshape(*array.shape[2:4], -1)


def by_rasterio(path: Path) -> Any:
    import rasterio

    with rasterio.open(path) as file:
        return file.read().transpose(1, 2, 0)


def random_values(dtype: str, bands: int, bits: int | None = None) -> Any:
    """Return values (height, width, bands) that use all the bits of a dtype."""
    import numpy as np

    rng, kind = np.random.default_rng(bands), np.dtype(dtype)
    shape = (HEIGHT, WIDTH, bands)
    if kind.kind == "b":
        return rng.random(shape) > 0.5
    if kind.kind in "ui":
        bits = bits or 8 * kind.itemsize
        low, high = (0, 2**bits - 1) if kind.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return rng.integers(low, high, shape, dtype=kind, endpoint=True)
    values = rng.normal(0, 300, shape)
    return (values + 1j * rng.normal(0, 300, shape) if kind.kind == "c" else values).astype(kind)


def label_of(values: Any, stored: dict[str, Any], options: dict[str, Any]) -> str:
    parts = {**stored, **options, "colors": None, "colormap": None}
    named = [f"{name}={value}" for name, value in parts.items() if value not in (None, False)]
    return " ".join([str(values.dtype), f"bands={values.shape[2]}", *named])


def smooth_values(bands: int) -> Any:
    """Return 8-bit values that lossy compression keeps within a few levels."""
    import numpy as np

    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([3 * x + 4 * y + 10 * band for band in range(bands)], axis=-1).astype(np.uint8)


def grid(**axes: Any) -> Iterator[dict[str, Any]]:
    """Yield every combination of the values of the axes."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def bits_of(dtype: str) -> int:
    return 1 if dtype == "bool" else int(re.sub(r"\D", "", dtype))


DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float16", "float32", "float64", "complex64")


def of_tifffile() -> Iterator[tuple[str, Callable[[Path], Stored]]]:
    def case(values: Any, stored: dict[str, Any], **options: Any) -> tuple[str, Callable[[Path], Stored]]:
        label = label_of(values, stored, options)
        return label, lambda path: write_tifffile(path, values, stored, options)

    lossless = ("none", "zlib", "lzw", "packbits", "zstd", "lzma")
    for at in grid(
        dtype=(*DTYPES, *FLOATS),
        bands=(1, 2, 3, 4, 5),
        planar=("contig", "separate"),
        compression=lossless,
        predictor=(False, True),
        tile=(None, (16, 16)),
        byteorder=("<", ">"),
    ):
        dtype, bands, compression, predictor = at["dtype"], at["bands"], at["compression"], at["predictor"]
        if (predictor and (compression in ("none", "packbits") or dtype == "bool")) or (
            bands == 1 and at["planar"] == "separate" and at["tile"]
        ):
            continue
        yield case(
            random_values(dtype, bands),
            {"bits": bits_of(dtype)},
            photometric="minisblack",
            planarconfig=at["planar"],
            compression=None if compression == "none" else compression,
            predictor=predictor,
            tile=at["tile"],
            rowsperstrip=None if at["tile"] else 7,
            byteorder=at["byteorder"],
        )
    layouts = list(grid(compression=(None, "zlib", "lzw"), tile=(None, (16, 16)), byteorder=("<", ">")))
    for layout, dtype in itertools.product(layouts, (*DTYPES, *FLOATS)):
        stored = {"bits": bits_of(dtype), "photometric": "miniswhite"}
        for bands in (1, 2):
            yield case(random_values(dtype, bands), stored, photometric="miniswhite", planarconfig="contig", **layout)
        yield case(random_values(dtype, 1), {"bits": bits_of(dtype)}, photometric="minisblack", bigtiff=True, **layout)
        for planar in ("contig", "separate"):
            yield case(random_values(dtype, 3), {"bits": bits_of(dtype)}, photometric="rgb", planarconfig=planar, **layout)
            for alpha in ("unassalpha", "assocalpha", "unspecified"):
                kind = {"unassalpha": "unassociated", "assocalpha": "associated"}.get(alpha, "")
                values = random_values(dtype, 4)
                if alpha == "assocalpha" and values.dtype.kind == "u":
                    values[..., :3] = values[..., :3] % (values[..., 3:].astype("uint64") + 1).astype(dtype).clip(1)
                yield case(
                    values, {"bits": bits_of(dtype), "photometric": "rgb", "alpha": kind, "tolerance": 1.5},
                    photometric="rgb", extrasamples=[alpha], planarconfig=planar, **layout,
                )
            for alpha in ("unassalpha", "assocalpha"):
                yield case(
                    random_values(dtype, 2),
                    {"bits": bits_of(dtype), "alpha": "unassociated" if alpha[0] == "u" else "associated", "tolerance": 1.5},
                    photometric="minisblack", extrasamples=[alpha], planarconfig=planar, **layout,
                )
            yield case(
                random_values(dtype, 5), {"bits": bits_of(dtype)},
                photometric="rgb", extrasamples=["unspecified"] * 2, planarconfig=planar, **layout,
            )
    for layout in layouts:
        for planar, dtype, bands in itertools.product(("contig", "separate"), ("uint8", "uint16"), (4, 5)):
            yield case(
                random_values(dtype, bands), {"bits": bits_of(dtype), "photometric": "cmyk", "tolerance": 2},
                photometric="separated", planarconfig=planar, **layout,
            )
        for dtype in ("uint8", "uint16"):
            import numpy as np

            colormap = np.random.default_rng(0).integers(0, 256, (3, 2 ** bits_of(dtype))).astype(np.uint16) * 257
            yield case(
                random_values(dtype, 1),
                {"bits": bits_of(dtype), "photometric": "palette", "colors": (colormap.T // 257).astype(np.uint8)},
                photometric="palette", colormap=colormap, **layout,
            )
        for bits in (*range(2, 8), *range(9, 16)):
            dtype = "uint8" if bits < 8 else "uint16"
            for photometric, bands in (("minisblack", 1), ("miniswhite", 1), ("minisblack", 5), ("rgb", 3)):
                yield case(
                    random_values(dtype, bands, bits), {"bits": bits, "photometric": photometric},
                    photometric=photometric, bitspersample=bits, planarconfig="contig", **layout,
                )
    for compression, dtype, bands in itertools.product(
        ("lerc", "jpegxl", "jpeg2000", "png", "webp"), ("uint8", "uint16", "int16", "float32"), (1, 2, 3, 4, 5)
    ):
        for tile in (None, (16, 16)):
            args = {"compressionargs": {"level": 101}} if compression == "webp" else {}
            alpha = {"alpha": "unassociated", "tolerance": 1.5} if bands == 4 else {}
            yield case(
                random_values(dtype, bands), {"bits": bits_of(dtype)},
                photometric="minisblack", planarconfig="contig", compression=compression, tile=tile, **args,
            )
            if bands in (3, 4):
                yield case(
                    random_values(dtype, bands), {"bits": bits_of(dtype), **alpha},
                    photometric="rgb", planarconfig="contig", compression=compression, tile=tile, **args,
                )
    for dtype, bands, tile in itertools.product((*DTYPES, *FLOATS), (1, 3), (None, (16, 16))):
        for byteorder, photometric in itertools.product("<>", ("minisblack", "miniswhite", "rgb")):
            yield case(
                random_values(dtype, bands), {"bits": bits_of(dtype), "photometric": photometric},
                photometric=photometric, planarconfig="contig", tile=tile, byteorder=byteorder, reversed_bits=True,
            )
    for bands, tile, photometric in itertools.product((1, 3), (None, (16, 16)), ("minisblack", "rgb", "ycbcr")):
        yield case(
            smooth_values(bands), {"bits": 8, "tolerance": 12},
            photometric=photometric, planarconfig="contig", compression="jpeg",
            compressionargs={"level": 95}, tile=tile,
        )


def write_tifffile(path: Path, values: Any, stored: dict[str, Any], options: dict[str, Any]) -> Stored:
    import numpy as np
    import tifffile

    options = {name: value for name, value in options.items() if value is not None}
    separate = options.get("planarconfig") == "separate" and values.shape[2] > 1
    data = np.moveaxis(values, 2, 0) if separate else values
    if values.shape[2] == 1:
        data = values[..., 0]
        options.pop("planarconfig", None)
    reversed_bits = options.pop("reversed_bits", False)
    extra = [(266, "H", 1, 2, True)] if reversed_bits else []  # FillOrder
    tifffile.imwrite(path, data, metadata=None, extratags=extra, **options)
    if reversed_bits:
        reverse_bits(path)
    return Stored(values, **stored)


def reverse_bits(path: Path) -> None:
    """Store the bits of each byte of the pixels from the lowest to the highest."""
    import numpy as np
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        parts = list(zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True))
    content = bytearray(path.read_bytes())
    for offset, size in parts:
        bits = np.unpackbits(np.frombuffer(content[offset : offset + size], np.uint8).reshape(-1, 1), axis=1)
        content[offset : offset + size] = np.packbits(bits[:, ::-1], axis=1).tobytes()
    path.write_bytes(content)


def of_rasterio() -> Iterator[tuple[str, Callable[[Path], Stored]]]:
    def case(values: Any, stored: dict[str, Any], **options: Any) -> tuple[str, Callable[[Path], Stored]]:
        label = label_of(values, stored, options)
        return label, lambda path: write_rasterio(path, values, stored, options)

    dtypes = tuple(dtype for dtype in (*DTYPES, *FLOATS) if dtype not in ("bool", "float16"))
    for at in grid(
        dtype=dtypes,
        bands=(1, 2, 3, 4, 5),
        interleave=("band", "pixel"),
        compress=("none", "deflate", "lzw", "packbits", "zstd", "lzma", "lerc", "lerc_deflate"),
        predictor=(1, 2, 3),
        tiled=(False, True),
        endianness=("little", "big"),
    ):
        predictor, compress, dtype = at["predictor"], at["compress"], at["dtype"]
        if predictor > 1 and compress not in ("deflate", "lzw", "zstd"):
            continue
        if (predictor == 3 and "float" not in dtype) or (predictor == 2 and dtype == "complex64"):
            continue
        stored = {"bits": bits_of(dtype)}
        if at["bands"] == 4 and dtype == "uint8":  # what GDAL declares
            stored |= {"alpha": "unassociated", "tolerance": 1.5}
        blocks = {"blockxsize": 16, "blockysize": 16} if at["tiled"] else {"blockysize": 7}
        options = {key: value for key, value in at.items() if key not in ("dtype", "bands")}
        yield case(random_values(dtype, at["bands"]), stored, **options, **blocks)
    for at in grid(
        nbits=(*range(1, 8), *range(9, 16)),
        endianness=("little", "big"),
        bands=(1, 3, 4, 5),
        interleave=("band", "pixel"),
        compress=("none", "deflate", "lzw"),
        tiled=(False, True),
        photometric=("minisblack", "miniswhite", "rgb"),
    ):
        if (at["photometric"] == "rgb") != (at["bands"] == 3):
            continue
        dtype = "uint8" if at["nbits"] < 8 else "uint16"
        stored = {"bits": at["nbits"], "photometric": at["photometric"]}
        blocks = {"blockxsize": 16, "blockysize": 16} if at["tiled"] else {}
        options = {key: value for key, value in at.items() if key != "bands"}
        yield case(random_values(dtype, at["bands"], at["nbits"]), stored, **options, **blocks)
    for at in grid(
        photometric=("minisblack", "miniswhite", "rgb", "cmyk"),
        dtype=("uint8", "uint16", "int16", "float32"),
        interleave=("band", "pixel"),
        compress=("none", "deflate", "lzw"),
        tiled=(False, True),
        bands=(1, 3, 4),
        bigtiff=("no", "yes"),
    ):
        bands, photometric, dtype = at["bands"], at["photometric"], at["dtype"]
        if (photometric == "rgb" and bands == 1) or (photometric == "cmyk" and bands != 4):
            continue
        stored = {"bits": bits_of(dtype), "photometric": photometric}
        if photometric == "rgb" and bands == 4:
            stored |= {"alpha": "unassociated", "tolerance": 1.5}
        if photometric == "cmyk":
            stored |= {"tolerance": 2}
        blocks = {"blockxsize": 16, "blockysize": 16} if at["tiled"] else {}
        options = {key: value for key, value in at.items() if key not in ("dtype", "bands")}
        yield case(random_values(dtype, bands), stored, **options, **blocks)
    for at in grid(
        dtype=("uint8", "uint16", "int16", "float32"),
        bands=(1, 3, 5),
        interleave=("band", "pixel"),
        compress=("none", "deflate", "lzw"),
        tiled=(False, True),
        nodata=(None, 7),
    ):
        blocks = {"blockxsize": 16, "blockysize": 16} if at["tiled"] else {"blockysize": 7}
        options = {key: value for key, value in at.items() if key not in ("dtype", "bands")}
        values = random_values(at["dtype"], at["bands"])
        yield case(values, {"bits": bits_of(at["dtype"])}, sparse_ok=True, **options, **blocks)
    for at in grid(interleave=("band", "pixel"), compress=("none", "deflate"), tiled=(False, True)):
        blocks = {"blockxsize": 16, "blockysize": 16} if at["tiled"] else {}
        yield case(random_values("uint8", 1), {"bits": 8, "photometric": "palette"}, palette=True, **at, **blocks)
    for at in grid(compress=("jpeg", "webp", "jxl"), bands=(1, 3, 4), photometric=("minisblack", "rgb", "ycbcr"), tiled=(False, True)):
        if (at["bands"] != 3) != (at["photometric"] == "minisblack"):
            continue
        blocks = {"blockxsize": 16, "blockysize": 16} if at["tiled"] else {}
        options = {key: value for key, value in at.items() if key != "bands"}
        yield case(
            smooth_values(at["bands"]), {"bits": 8, "tolerance": 12},
            interleave="pixel", jpeg_quality=95, webp_level=95, **options, **blocks,
        )


def write_rasterio(path: Path, values: Any, stored: dict[str, Any], options: dict[str, Any]) -> Stored:
    import numpy as np
    import rasterio

    options = dict(options)
    colors = None
    palette = options.pop("palette", False)
    bands = values.shape[2]
    with rasterio.open(
        path, "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=bands, dtype=values.dtype, **options
    ) as file:
        if palette:
            colors = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
            file.write_colormap(1, {i: (*map(int, color), 255) for i, color in enumerate(colors)})
        if options.get("sparse_ok"):  # only the blocks below row 16 are stored
            values[:16] = options["nodata"] or 0
            window = rasterio.windows.Window(0, 16, WIDTH, HEIGHT - 16)
            file.write(values[16:].transpose(2, 0, 1), window=window)
        else:
            file.write(values.transpose(2, 0, 1))
    return Stored(values, **stored, **({} if colors is None else {"colors": colors}))


def of_pillow() -> Iterator[tuple[str, Callable[[Path], Stored]]]:
    for at in grid(
        mode=("1", "L", "LA", "P", "I;16", "I;16B", "I", "F", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"),
        compression=("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma", "jpeg", "webp", "group3", "group4"),
        big_tiff=(False, True),
    ):
        yield " ".join(map(str, at.values())), lambda path, at=at: write_pillow(path, **at)


def write_pillow(path: Path, mode: str, compression: str, big_tiff: bool) -> Stored:
    import numpy as np
    from PIL import Image

    lossy = compression in ("jpeg", "webp")
    if lossy:
        rgb = Image.fromarray(smooth_values(3))
    else:
        rgb = Image.fromarray(random_values("uint8", 3))
    dtype = {"I;16": "uint16", "I;16B": ">u2", "I": "int32", "F": "float32"}.get(mode)
    if dtype:
        image = Image.frombytes(mode, (WIDTH, HEIGHT), random_values(dtype, 1).tobytes())
    elif mode == "LAB":
        image = Image.frombytes("LAB", (WIDTH, HEIGHT), random_values("uint8", 3).tobytes())
    else:
        image = rgb.convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(Image.fromarray(random_values("uint8", 1)[..., 0]))
    image.save(path, compression=compression, big_tiff=big_tiff)
    values = np.asarray(image)
    values = values[..., None] if values.ndim == 2 else values
    tolerance = 16 if lossy else 0
    kind: dict[str, Any] = {"bits": 1 if mode == "1" else 8 * values.dtype.itemsize, "tolerance": tolerance}
    if mode in ("LA", "RGBA"):
        kind |= {"alpha": "unassociated", "tolerance": tolerance + 1.5}
    if mode == "P":
        palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        kind |= {"photometric": "palette", "colors": palette}
    if mode == "CMYK":
        kind |= {"photometric": "cmyk", "tolerance": tolerance + 2}
    if mode == "YCbCr":
        values = np.asarray(image.convert("RGB"))
        kind |= {"tolerance": 90 if lossy else 4}
    return Stored(values, **kind)


if __name__ == "__main__":
    main()
