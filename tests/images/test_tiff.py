"""TIFFs of many kinds: what is written is read, at every door, or refused with the way out."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sklearn_ssl._images.decode import header_of, pixels_of_encoded, pixels_of_image

tifffile = pytest.importorskip("tifffile")
pytestmark = [  # rasterio's
    pytest.mark.filterwarnings("ignore:Dataset has no geotransform"),
    pytest.mark.filterwarnings("ignore:The given matrix is equal to Affine.identity"),
]

HEIGHT, WIDTH = 20, 37  # neither is a multiple of the tiles or of 8


def pixels(encoded, size=None):
    return pixels_of_encoded(encoded, size, header_of(encoded).channels, 10**6, "white")


def values_of(dtype, bands=1, bits=None):
    """Return values (height, width, bands) that use all the bits."""
    rng, kind = np.random.default_rng(0), np.dtype(dtype)
    shape = (HEIGHT, WIDTH, bands)
    if kind.kind == "f":
        return rng.normal(0, 300, shape).astype(kind)
    high = 2**bits - 1 if bits else np.iinfo(kind).max
    return rng.integers(np.iinfo(kind).min, high, shape, kind, endpoint=True)


def write_gdal(path, values, **options):
    rasterio = pytest.importorskip("rasterio")
    height, width, bands = values.shape
    shape = {"height": height, "width": width, "count": bands, "dtype": values.dtype}
    if options.get("tiled"):
        options |= {"blockxsize": 16, "blockysize": 16}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
        file.write(values.transpose(2, 0, 1))


def write_plain(path, values, **options):
    """Write (height, width, bands) with tifffile; several bands are interleaved."""
    options = {"photometric": "minisblack", **options}
    if values.shape[2] > 1:
        options = {"planarconfig": "contig", **options}
    tifffile.imwrite(path, values if values.shape[2] > 1 else values[..., 0], metadata=None, **options)


def check_doors(opened, folder, values):
    """Compare a file of a folder with its values: by its path, its bytes, and the folder."""
    path = folder / "a.tif"
    (folder / "b.tif").write_bytes(path.read_bytes())
    for encoded in (path, path.read_bytes()):
        read = pixels(encoded)
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values)
    source, _ = opened(folder)
    expected = values if values.dtype == np.uint8 else values.astype(np.float32)
    np.testing.assert_array_equal(source.batch(torch.arange(1))[0], expected.transpose(2, 0, 1))


# ------------------------------------------------------------------ values

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
LAYOUTS = (
    {"interleave": "band", "tiled": True},
    {"interleave": "band"},
    {"interleave": "pixel", "compress": "deflate", "tiled": True},
    {"interleave": "band", "compress": "deflate", "predictor": 2},
    {"interleave": "pixel", "compress": "packbits"},
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_gdal_writes_is_read(opened, tmp_path, dtype):
    for i, (endianness, bands, layout) in enumerate(itertools.product(("little", "big"), (1, 5), LAYOUTS)):
        folder = tmp_path / str(i)
        folder.mkdir()
        values = values_of(dtype, bands)
        write_gdal(folder / "a.tif", values, endianness=endianness, **layout)
        check_doors(opened, folder, values)


@pytest.mark.parametrize("dtype", [*DTYPES, "float16", "int64", "uint64"])
def test_what_tifffile_writes_is_read(opened, tmp_path, dtype):
    layouts = itertools.product("<>", (None, "zlib"), (None, (16, 16)), (1, 3))
    for i, (byteorder, compression, tile, bands) in enumerate(layouts):
        folder = tmp_path / str(i)
        folder.mkdir()
        values = values_of(dtype, bands)
        options = {"compression": compression, "tile": tile, "byteorder": byteorder, "bigtiff": i % 3 == 0}
        write_plain(folder / "a.tif", values, **options)
        check_doors(opened, folder, values)


def test_big_endian_and_little_endian_files_have_the_same_embeddings(embedder, tmp_path):
    for name, order in (("little", "<"), ("big", ">")):
        (tmp_path / name).mkdir()
        for i, image in enumerate(np.random.default_rng(0).normal(0, 300, (6, 32, 32)).astype(np.int16)):
            options = {"byteorder": order, "compression": "zlib"}
            tifffile.imwrite(tmp_path / name / f"{i}.tif", image, **options)
    fitted = embedder().fit(tmp_path / "little")
    np.testing.assert_array_equal(*(fitted.transform(tmp_path / name) for name in ("little", "big")))


def test_the_usual_way_to_write_a_geotiff_from_the_profile_of_another(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    heights = values_of("int16")
    write_gdal(tmp_path / "source.tif", heights)
    with rasterio.open(tmp_path / "source.tif") as file:
        profile = file.profile  # says interleave="band"
    profile.update(tiled=True, blockxsize=16, blockysize=16)
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as file:
        file.write(heights[..., 0], 1)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), heights)


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize(("bits", "factor"), [(1, 255), (2, 85), (4, 17)])
def test_few_bits_have_the_range_of_eight(tmp_path, interleave, bits, factor):
    pytest.importorskip("imagecodecs")
    for bands, photometric in ((1, "minisblack"), (1, "miniswhite"), (5, "minisblack")):
        values = values_of("uint8", bands, bits)
        write_gdal(tmp_path / "a.tif", values, nbits=bits, interleave=interleave, photometric=photometric)
        levels = 2**bits - 1 - values if photometric == "miniswhite" else values
        np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), levels * factor)
        assert not header_of(tmp_path / "a.tif").deep


@pytest.mark.parametrize("bits", [3, 7, 10, 12, 14])
def test_packed_bits_are_what_they_are(tmp_path, bits):
    pytest.importorskip("imagecodecs")
    values = values_of("uint8" if bits < 8 else "uint16", 1, bits)
    for endianness, compress in itertools.product(("little", "big"), ("none", "deflate")):
        write_gdal(tmp_path / "a.tif", values, nbits=bits, endianness=endianness, compress=compress)
        np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), values)


def test_a_palette_in_a_plane_of_its_own_gives_its_colors(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    indices, colors = values_of("uint8"), np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    for interleave in ("band", "pixel"):
        shape = {"height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint8"}
        with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", interleave=interleave, **shape) as file:
            file.write_colormap(1, {i: (*map(int, color), 255) for i, color in enumerate(colors)})
            file.write(indices[..., 0], 1)
        assert header_of(tmp_path / "a.tif").channels == 3
        np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), colors[indices[..., 0]])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_the_bits_of_a_byte_in_reverse_order(tmp_path, compression):
    values = values_of("uint16")
    write_plain(tmp_path / "a.tif", values, extratags=[(265, "H", 1, 2, True)], rowsperstrip=HEIGHT)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        at, start = file.pages[0].tags[265].offset, file.pages[0].dataoffsets[0]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[at] = 266 - 256  # FillOrder = 2
    content[start:] = bytes(int(f"{byte:08b}"[::-1], 2) for byte in content[start:])
    np.testing.assert_array_equal(pixels(bytes(content)), values)


@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_blocks_that_a_sparse_file_leaves_out_are_without_data(tmp_path, compress):
    rasterio = pytest.importorskip("rasterio")
    values = values_of("uint8")
    values[:, :16] = 0
    shape = {"height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint8", "interleave": "pixel"}
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16, "sparse_ok": True, "compress": compress}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **shape, **blocks) as file:
        window = rasterio.windows.Window(16, 0, WIDTH - 16, HEIGHT)
        file.write(values[:, 16:].transpose(2, 0, 1), window=window)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), values)


def test_a_picture_in_planes_is_that_of_interleaved_channels(tmp_path):
    y, x = np.mgrid[:60, :80]
    for bands, extra in ((2, ["unassalpha"]), (4, ["unassalpha"])):
        values = np.stack([(3 * x + band * y) % 256 for band in range(bands)], axis=2).astype(np.uint8)
        options = {"photometric": "rgb" if bands == 4 else "minisblack", "extrasamples": extra}
        write_plain(tmp_path / "a.tif", values, **options)
        planes = np.moveaxis(values, 2, 0)
        tifffile.imwrite(tmp_path / "b.tif", planes, planarconfig="separate", metadata=None, **options)
        for size in (None, (16, 16)):  # resized, and over white
            np.testing.assert_array_equal(*(pixels(tmp_path / f"{name}.tif", size) for name in "ab"))


# ------------------------------------------------------------------ pages


def test_a_mask_is_told_instead_of_ignored(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    write_gdal(tmp_path / "a.tif", values_of("uint8", 3), photometric="rgb")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_mask(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2 == 0)
    for read in (pixels, header_of):
        with pytest.raises(ValueError, match=r"it has a mask .* give them a value with reader__read"):
            read(tmp_path / "a.tif")


def test_overviews_are_no_pages(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    for dtype in ("uint8", "int16"):
        values = values_of(dtype)
        write_gdal(tmp_path / "a.tif", values)
        with rasterio.open(tmp_path / "a.tif", "r+") as file:
            file.build_overviews([2, 4])
        np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_a_preview_as_the_first_page_is_not_taken_for_the_image(tmp_path, dtype):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.zeros((8, 8), dtype), subfiletype=1)
        file.write(np.zeros((32, 32), dtype))
    with pytest.raises(ValueError, match=r"its first page is a preview of another one: .* reader__read"):
        pixels(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_planes_between_previews_are_a_stack(tmp_path, dtype):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for _ in range(2):
            file.write(np.zeros((32, 32), dtype))
            file.write(np.zeros((8, 8), dtype), subfiletype=1)
    with pytest.raises(ValueError, match=r"a stack of pages of one size, .* key=0\)"):
        pixels(tmp_path / "a.tif")


def test_a_volume_in_one_page_is_a_stack(tmp_path):
    volume = np.zeros((3, 16, 16), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", volume, volumetric=True, photometric="minisblack", tile=(1, 16, 16))
    with pytest.raises(ValueError, match="a stack of pages of one size"):
        pixels(tmp_path / "a.tif")


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("dtype", "bands", "options", "words"),
    [
        ("complex64", 1, {}, r"dtype complex64, are not supported: save real numbers .* reader__read"),
        ("uint16", 2, {"extrasamples": ["unassalpha"]}, "transparency .* is not supported: save it without"),
        ("uint8", 2, {"extrasamples": ["assocalpha"]}, "multiplied into the colors, is not supported: save"),
        (
            "float32",
            4,
            {"photometric": "rgb", "extrasamples": ["unassalpha"]},
            "transparency in values of 32",
        ),
        ("uint16", 4, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, "not unassociated alpha: save"),
        ("uint8", 3, {"photometric": "cielab"}, "CIELAB, neither gray nor RGB nor a palette: save it as RGB"),
        (
            "uint8",
            2,
            {"photometric": "miniswhite"},
            "white as 0, in one of several channels: save it with bl",
        ),
    ],
)
def test_what_would_be_misunderstood_is_refused_with_the_way_out(tmp_path, dtype, bands, options, words):
    write_plain(tmp_path / "a.tif", np.zeros((HEIGHT, WIDTH, bands), dtype), **options)
    with pytest.raises(ValueError, match=words):
        pixels(tmp_path / "a.tif")


def test_lerc_of_floats_is_refused_as_its_nan_would_be_zero(tmp_path):
    pytest.importorskip("imagecodecs")
    values = values_of("float32")
    values[3, 4] = np.nan
    write_gdal(tmp_path / "a.tif", values, compress="lerc")
    with pytest.raises(ValueError, match="in LERC, tifffile takes NaN for 0: save it with"):
        pixels(tmp_path / "a.tif")


def test_an_open_image_that_pillow_misreads_is_refused(tmp_path):
    for byteorder in "<>":
        path = tmp_path / f"{byteorder == '<'}.tif"
        write_plain(path, values_of("int16"), byteorder=byteorder, compression="zlib")
    with Image.open(tmp_path / "True.tif") as image:
        np.testing.assert_array_equal(pixels_of_image(image, None, 1, "white"), values_of("int16"))
    with (
        Image.open(tmp_path / "False.tif") as image,
        pytest.raises(ValueError, match="Pillow misreads this kind of TIFF: give its path"),
    ):
        pixels_of_image(image, None, 1, "white")


# ------------------------------------------------------------------ libraries

READ = """
import sys
sys.modules["imagecodecs"] = None  # as if it were not installed
from pathlib import Path
from sklearn_ssl._images.decode import header_of, pixels_of_encoded
for path in sorted(Path(sys.argv[1]).glob("*.tif")):
    try:
        pixels_of_encoded(path, None, header_of(path).channels, 10**6, "white")
        print(path.stem, "read")
    except ValueError as error:
        print(path.stem, error)
"""


def test_without_imagecodecs_it_is_named(tmp_path):
    values = values_of("uint16", 5)
    for compress in ("lzw", "zstd", "lerc", "deflate"):
        write_gdal(tmp_path / f"{compress}.tif", values, compress=compress)
    write_gdal(tmp_path / "predictor.tif", values_of("float32", 5), compress="deflate", predictor=3)
    write_gdal(tmp_path / "packed.tif", values_of("uint16", 5, 12), nbits=12)
    done = subprocess.run([sys.executable, "-c", READ, tmp_path], check=True, capture_output=True, text=True)
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said.pop("deflate") == "read"
    assert len(said) == 5
    assert all(text.endswith(": pip install imagecodecs") for text in said.values()), said


def test_without_tifffile_both_are_named(tmp_path, monkeypatch):
    write_gdal(tmp_path / "a.tif", values_of("int16"), interleave="band")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ValueError, match="that Pillow misreads: pip install tifffile imagecodecs"):
        pixels(tmp_path / "a.tif")


def test_what_pillow_reads_rightly_needs_no_other_library(tmp_path, monkeypatch):
    files = {}
    for dtype, compress in itertools.product(
        ("uint8", "uint16", "int16", "int32", "float32"), ("none", "lzw")
    ):
        name = f"{dtype}{compress}.tif"
        files[name] = values_of(dtype)
        write_gdal(tmp_path / name, files[name], compress=compress, interleave="pixel")
    files["planes.tif"] = values_of("uint8", 3)
    write_gdal(tmp_path / "planes.tif", files["planes.tif"], photometric="rgb", interleave="band")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for name, values in files.items():
        np.testing.assert_array_equal(pixels(tmp_path / name), values)
