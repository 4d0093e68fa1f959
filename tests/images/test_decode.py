"""Decoding of image files: pixel values of files that are written here."""

import contextlib
import gzip
import io
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sklearn_ssl._images.decode import header_of, pixels_of_encoded

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
LARGE = 10**6


def pixels(path, size=None, channels=3, max_pixels=LARGE, background="white"):
    return pixels_of_encoded(path, size, channels, max_pixels, background)


@pytest.fixture
def save(tmp_path):
    def save(image, name, **options):
        path = tmp_path / name
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
        return path

    return save


# ------------------------------------------------------------------ formats


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.ppm", {}),
        ("a.tif", {}),
        ("a.tiff", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
        ("a.jp2", {"irreversible": False}),
        ("A.PNG", {}),
        ("no_suffix", {"format": "PNG"}),
        ("a_png_in_truth.jpg", {"format": "PNG"}),
    ],
)
def test_lossless_files_are_read_to_the_last_bit(save, name, options):
    path = save(PHOTO, name, **options)
    np.testing.assert_array_equal(pixels(path), PHOTO)
    header = header_of(path)
    assert (header.height, header.width, header.channels, header.deep) == (12, 16, 3, False)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
def test_a_jpeg_is_near(save, name):
    smooth = np.asarray(Image.fromarray(PHOTO).resize((320, 240), Image.Resampling.BICUBIC))
    difference = pixels(save(smooth, name, quality=95)).astype(int) - smooth
    assert np.abs(difference).mean() < 5


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_counts(save, suffix):
    frames = [Image.new("RGB", (8, 8), color) for color in ((204, 0, 0), (0, 204, 0))]
    path = save(frames[0], f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(pixels(path)[4, 4].astype(int) - [204, 0, 0]).max() < 3


def test_a_tiff_of_several_pages_of_one_size_is_refused(save):
    pages = [Image.new("L", (8, 8), level) for level in (10, 20, 30)]
    path = save(pages[0], "a.tif", save_all=True, append_images=pages[1:])
    for read in (pixels, header_of):
        with pytest.raises(ValueError, match=r"a stack of pages of one size, .* key=0\)"):
            read(path)


def test_a_tiff_whose_further_pages_are_smaller_is_its_first_page(save):
    small = Image.new("RGB", (4, 4))  # a preview, or the next level of a pyramid
    path = save(Image.fromarray(PHOTO), "a.tif", save_all=True, append_images=[small])
    np.testing.assert_array_equal(pixels(path), PHOTO)


def test_a_stack_that_pillow_does_not_know_is_refused_too(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 8, 8), np.float64), photometric="minisblack")
    for read in (pixels, header_of):
        with pytest.raises(ValueError, match="a stack of pages of one size"):
            read(tmp_path / "a.tif")


def test_formats_that_are_no_ones_business_stay_closed(save):
    for name, options in (("a.tga", {}), ("a.eps", {}), ("a.jpg", {"format": "PCX"})):
        path = save(PHOTO, name, **options)
        with pytest.raises(OSError, match="cannot identify image file"):
            pixels(path)


# ------------------------------------------------------------------ kinds of pixels


def test_16_bit_gray_keeps_every_level(save):
    levels = (np.arange(192, dtype=np.uint16) * 300 + 7).reshape(12, 16)
    for name in ("a.png", "a.tif"):
        path = save(levels, name)
        assert header_of(path).deep
        np.testing.assert_array_equal(pixels(path, channels=1)[..., 0], levels)
        np.testing.assert_array_equal(pixels(path)[..., 2], levels)  # among colored ones


def png_of_16_bits(array):
    """Write a PNG of 16 bits; Pillow writes none with colors."""
    height, width, channels = array.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def test_16_bit_colors_keep_every_level_as_well(tmp_path):
    path, levels = tmp_path / "a.png", (np.arange(576, dtype=np.uint16) * 100 + 7).reshape(12, 16, 3)
    path.write_bytes(png_of_16_bits(levels))
    header = header_of(path)
    assert (header.channels, header.deep) == (3, True)
    np.testing.assert_array_equal(pixels(path), levels)


def test_16_bit_transparency_is_over_the_background_too(tmp_path):
    levels = np.full((8, 8, 4), 40_000, np.uint16)
    levels[..., -1] = 65_535
    levels[4:, :, -1] = 13_107  # a fifth is seen
    path = tmp_path / "a.png"
    path.write_bytes(png_of_16_bits(levels))
    seen = pixels(path)
    np.testing.assert_allclose(seen[0, 0], 40_000)
    np.testing.assert_allclose(seen[7, 0], 0.2 * 40_000 + 0.8 * 65_535, rtol=1e-5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colors_are_turned_as_others_are(save, tmp_path, orientation):
    levels = np.zeros((8, 16, 3), np.uint8)
    levels[:4, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    shallow = pixels(save(levels, "a.png", exif=exif))
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    deep = png_of_16_bits(levels.astype(np.uint16) * 257)
    (tmp_path / "b.png").write_bytes(deep[:33] + chunk + deep[33:])  # behind the header
    np.testing.assert_array_equal(pixels(tmp_path / "b.png") // 257, shallow)


def test_16_bit_colors_that_would_be_reduced_are_refused(tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 8 8 65535\n" + bytes(8 * 8 * 6))
    with pytest.raises(ValueError, match="PPM with 16 bits per channel is not supported: save it as PNG"):
        pixels(path)


def test_a_transparent_color_of_16_bits_is_refused(tmp_path):
    data = bytes(6)
    chunk = struct.pack(">I", len(data)) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))
    whole = png_of_16_bits(np.zeros((8, 8, 3), np.uint16))
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk + whole[33:])  # behind the header
    with pytest.raises(ValueError, match="16-bit RGB with a transparent color is not supported: save it as"):
        pixels(tmp_path / "a.png")


def test_an_orientation_that_makes_no_sense_is_none(tmp_path):
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", exif=b"Exif\0\0not a TIFF file")
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    assert pixels(tmp_path / "a.jpg").shape == (12, 16, 3)


def test_16_bit_gray_with_transparency_is_refused_rather_than_reduced(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_of_16_bits(np.zeros((8, 8, 2), np.uint16)))
    with pytest.raises(ValueError, match="16-bit grayscale with transparency is not supported"):
        pixels(path)


def test_floats_are_what_they_are(save):
    values = np.linspace(-3, 3, 192, dtype=np.float32).reshape(12, 16)
    np.testing.assert_array_equal(pixels(save(values, "a.tif"), channels=1)[..., 0], values)


def test_cmyk_becomes_rgb(save):
    path = save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg", quality=95)  # no cyan: red
    assert np.abs(pixels(path)[4, 4].astype(int) - [255, 0, 0]).max() < 12


def test_black_and_white_and_gray_with_alpha(save):
    checks = np.indices((8, 8)).sum(axis=0) % 2 == 0
    np.testing.assert_array_equal(pixels(save(checks, "a.png"), channels=1)[..., 0], checks * 255)
    half = np.zeros((8, 8, 2), np.uint8)
    half[:4, :, 1] = 255
    path = save(Image.fromarray(half, "LA"), "b.png")
    assert header_of(path).channels == 1
    assert pixels(path, channels=1)[[0, 7], 0, 0].tolist() == [0, 255]


@pytest.mark.parametrize(("background", "seen"), [("white", 255), ("black", 0), ("#202020", 32)])
def test_what_is_behind_transparent_pixels(save, background, seen):
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[..., 0] = 200  # hidden red
    half = clear.copy()
    half[..., 3] = 51  # one fifth of it is seen
    assert pixels(save(clear, "a.png"), background=background)[0, 0].tolist() == [seen] * 3
    mixed = pixels(save(half, "b.png"), background=background)[0, 0]
    np.testing.assert_allclose(mixed, [0.2 * 200 + 0.8 * seen, 0.8 * seen, 0.8 * seen], atol=1)


def test_a_transparent_color_of_a_palette(save):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 204, 0, 0])
    image.paste(0, (0, 0, 4, 8))
    path = save(image, "a.gif", transparency=0)
    assert pixels(path)[4, 0].tolist() == [255, 255, 255]
    assert pixels(path)[4, 7].tolist() == [204, 0, 0]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_are_undone(save, orientation, name, tmp_path):
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:4, :4] = 255  # a light corner, upper left
    undone = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(np.ascontiguousarray(undone), name, exif=exif)
    np.testing.assert_array_equal(pixels(path), upright)


# ------------------------------------------------------------------ gray and colored


def test_colors_are_not_made_gray(save):
    red = save(Image.new("RGB", (8, 8), (204, 0, 0)), "a.png")
    palette = save(Image.new("RGB", (8, 8), (204, 0, 0)).convert("P"), "b.png")
    for path in (red, palette):
        with pytest.raises(ValueError, match=r"it is a color image, while .* are grayscale"):
            pixels(path, size=(4, 4), channels=1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_gray_that_was_saved_as_colors_is_gray(save, mode):
    gray = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(12, 16))
    path = save(gray.convert(mode), "a.png")
    np.testing.assert_array_equal(pixels(path, channels=1)[..., 0], gray)


def test_a_gray_jpeg_that_was_saved_as_colors_is_gray(save):
    gray = np.repeat(PHOTO[..., :1], 3, axis=2)
    assert pixels(save(gray, "a.jpg"), size=(6, 8), channels=1).shape == (6, 8, 1)


# ------------------------------------------------------------------ files of others


@pytest.mark.parametrize(
    ("name", "at", "magic", "words"),
    [
        ("a.dcm", 128, b"DICM", r"it is a DICOM file: .* lambda path: pydicom\.dcmread\(path\)\.pixel_array"),
        ("a.nii", 344, b"n+1\0", r"it is a NIfTI volume: .* lambda path: nibabel\.load\(path\)\.dataobj"),
        ("a.nii.gz", 344, b"n+1\0", r"it is a NIfTI volume: read it with reader__read"),
    ],
)
@pytest.mark.parametrize("preamble", [b"", b"II*\0"])
def test_medical_images_are_told_how_to_be_read(tmp_path, name, at, magic, words, preamble):
    content = preamble.ljust(at, b"\0") + magic + bytes(100)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for read in (pixels, header_of):
        with pytest.raises(ValueError, match=words):
            read(path)


# ------------------------------------------------------------------ arrays as files


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32), (4, 20, 30)])
def test_channels_in_the_first_axis_are_noticed(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    words = rf"it has the shape {re.escape(str(shape))}: axis 0, of length {shape[0]}, looks like channels\."
    for read in (pixels, header_of):
        with pytest.raises(ValueError, match=words):
            read(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(3, 32, 3), (32, 32, 3), (20, 1, 13), (3, 5, 4)])
def test_thin_images_and_many_channels_are_no_channels_in_the_first_axis(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    assert pixels(tmp_path / "a.npy", channels=shape[2]).shape == shape


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">f4", np.float64])
@pytest.mark.parametrize("shape", [(16, 20), (16, 20, 13)])
def test_arrays_of_any_channels_and_type(tmp_path, dtype, shape):
    array = (np.arange(np.prod(shape)) % 251).astype(dtype).reshape(shape)
    np.save(tmp_path / "a.npy", array)
    channels = shape[2] if len(shape) == 3 else 1
    header = header_of(tmp_path / "a.npy")
    assert (header.height, header.width, header.channels) == (16, 20, channels)
    assert header.deep == (dtype is not np.uint8)
    read = pixels(tmp_path / "a.npy", channels=channels)
    np.testing.assert_array_equal(read, array.reshape(16, 20, channels))


def test_arrays_of_objects_are_never_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[print]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"Object arrays|Python objects"):
        pixels(tmp_path / "a.npy")


def test_thirteen_channels_are_learned_from(embedder, tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.npy" for i in range(6)]
    for path in paths:
        np.save(path, rng.integers(0, 4096, (8, 8, 13), dtype=np.uint16))
    fitted = embedder(batch_size=6, precision="float32").fit(paths)
    assert fitted.image_shape_ == (8, 8, 13)
    in_memory = np.stack([np.load(path) for path in paths])
    expected = embedder(batch_size=6, precision="float32").fit(in_memory)
    np.testing.assert_array_equal(fitted.transform(tmp_path), expected.transform(in_memory))


def test_tiffs_that_pillow_does_not_know(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    array = np.arange(12 * 16 * 5, dtype=np.uint16).reshape(12, 16, 5)
    tifffile.imwrite(tmp_path / "a.tif", array, planarconfig="contig", photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "b.tif", np.moveaxis(array, 2, 0), planarconfig="separate", photometric="minisblack"
    )
    tifffile.imwrite(tmp_path / "c.tif", array[..., :3], photometric="rgb")
    for name, channels in (("a.tif", 5), ("b.tif", 5), ("c.tif", 3)):
        header = header_of(tmp_path / name)
        assert (header.height, header.width, header.channels, header.deep) == (12, 16, channels, True)
        np.testing.assert_array_equal(pixels(tmp_path / name, channels=channels), array[..., :channels])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_second_channel_of_a_tiff_is_kept(tmp_path, dtype):
    tifffile = pytest.importorskip("tifffile")
    array = np.arange(12 * 16 * 2).reshape(12, 16, 2).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, planarconfig="contig", photometric="minisblack")
    header = header_of(tmp_path / "a.tif")
    assert (header.height, header.width, header.channels, header.deep) == (12, 16, 2, dtype is not np.uint8)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif", channels=2), array)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(("dtype", "value"), [(np.int8, -3), (np.uint32, 3_000_000_000), (np.int16, -3)])
def test_signs_and_large_numbers_of_a_tiff_are_kept(tmp_path, dtype, value, byteorder):
    tifffile = pytest.importorskip("tifffile")
    array = np.full((8, 8), value, dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, byteorder=byteorder, photometric="minisblack")
    assert header_of(tmp_path / "a.tif").deep
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif", channels=1)[..., 0], array)


@pytest.mark.parametrize(("dtype", "white"), [(bool, 1), (np.uint8, 255), (np.uint16, 65_535)])
def test_where_zero_is_white_it_becomes_the_largest_number(tmp_path, dtype, white):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, white]] * 8, dtype), photometric="miniswhite")
    white = max(white, 255)  # one bit becomes eight
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif", channels=1)[..., 0], [[white, 0]] * 8)


def test_zero_as_white_among_floats_is_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.float32), photometric="miniswhite")
    with pytest.raises(ValueError, match="it stores white as 0, in values of dtype float32"):
        pixels(tmp_path / "a.tif", channels=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_that_pillow_misreads_are_turned_as_others_are(tmp_path, orientation):
    tifffile = pytest.importorskip("tifffile")
    array = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16)
    for name, dtype in (("a.tif", np.uint8), ("b.tif", np.int8)):
        extra = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / name, array.astype(dtype), photometric="minisblack", extratags=extra)
    np.testing.assert_array_equal(*(pixels(tmp_path / name, channels=1) for name in ("a.tif", "b.tif")))


def test_tiffs_that_would_be_misunderstood_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path, array = tmp_path / "a.tif", np.zeros((8, 8, 4), np.uint16)
    tifffile.imwrite(path, array, photometric="separated")
    with pytest.raises(ValueError, match="CMYK of more than 8 bits or channels is not supported"):
        pixels(path)
    tifffile.imwrite(path, array, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(ValueError, match="fourth channel is not unassociated alpha"):
        pixels(path)
    tifffile.imwrite(path, array.astype(np.uint8), photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(ValueError, match="fourth channel is not unassociated alpha"):
        pixels(path)
    tifffile.imwrite(
        path, np.full((8, 8, 4), 65_535, np.uint16), photometric="rgb", extrasamples=["unassalpha"]
    )
    assert pixels(path).min() == 65_535


def test_a_tiff_that_promises_more_than_it_holds_is_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.zeros((100, 100, 700), np.uint16),
        compression="zlib",
        photometric="minisblack",
        planarconfig="contig",
    )
    assert header_of(path).channels == 700
    with pytest.raises(ValueError, match="more than reader__max_pixels=100000"):
        pixels(path, max_pixels=10**5)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((8, 8, 5), np.uint16), ((8, 8, 2), np.uint8), ((8, 8), np.int8)]
)
def test_without_tifffile_it_says_what_to_install(tmp_path, monkeypatch, shape, dtype):
    tifffile = pytest.importorskip("tifffile")
    array = np.zeros(shape, dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, planarconfig="contig", photometric="minisblack")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(ValueError, match="pip install tifffile"):
        pixels(tmp_path / "a.tif")


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (7, 5)])
def test_the_short_side_fits_and_the_middle_stays(save, shape):
    column = np.zeros((*shape, 3), np.uint8)
    column[..., 0] = np.linspace(0, 255, shape[1])[None]  # from left to right
    small = pixels(save(column, "a.png"), size=(16, 16))
    assert small.shape == (16, 16, 3)
    cut = max(0, shape[1] - shape[0]) / 2 / shape[1]  # of either side
    expected = 255 * (cut + (1 - 2 * cut) * (np.arange(16) + 0.5) / 16)
    np.testing.assert_allclose(small[8, :, 0], expected, atol=255 / min(shape) + 2)


def test_resizing_is_antialiased(save):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert np.abs(pixels(save(stripes, "a.png"), size=(8, 8)).astype(int) - 127).max() < 20


def test_a_large_jpeg_at_a_small_size_is_decoded_in_part_and_near(save):
    smooth = np.asarray(Image.fromarray(PHOTO).resize((1600, 1200), Image.Resampling.BICUBIC))
    path = save(smooth, "a.jpg", quality=95)
    expected = np.asarray(Image.fromarray(smooth).crop((200, 0, 1400, 1200)).resize((64, 64), Image.BILINEAR))
    assert np.abs(pixels(path, size=(64, 64), max_pixels=10**7).astype(int) - expected).mean() < 3


# ------------------------------------------------------------------ bombs, mutations


def png_header(width, height):
    """Return a PNG whose header claims more pixels than it contains."""
    chunk = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + chunk + crc + b"\0\0\1\0IDAT"


def test_too_many_pixels_are_refused_before_they_are_decoded(save, tmp_path):
    path = save(PHOTO, "a.png")
    with pytest.raises(ValueError, match="16 x 12 pixels, more than reader__max_pixels=100: raise this"):
        pixels(path, max_pixels=100)
    (tmp_path / "bomb.png").write_bytes(png_header(9000, 9000))
    with pytest.raises(ValueError, match="9000 x 9000 pixels, more than reader__max_pixels"):
        pixels(tmp_path / "bomb.png")
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (2000, 2000))
    with pytest.raises(ValueError, match="2000 x 2000 pixels, more than"):
        pixels(tmp_path / "a.npy")


def test_an_array_that_promises_more_than_it_holds(tmp_path):
    with io.BytesIO() as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (900, 900, 3)}
        )
        (tmp_path / "a.npy").write_bytes(file.getvalue())
    with pytest.raises(ValueError):
        pixels(tmp_path / "a.npy")


@pytest.mark.filterwarnings("ignore")  # Pillow's, on bytes that make little sense
@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tif", "webp", "jp2", "ppm", "npy"])
def test_mutated_files_are_read_or_refused_in_our_words(opened, save, tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, PHOTO)
    else:
        save(PHOTO, path.name)
    good = save(PHOTO, "good.png")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        path.write_bytes(mutated(whole, rng))
        words = f"{re.escape(str(path))} .position 1|Give images of one kind"
        with contextlib.suppress(Refused), _as_refused(words):
            source, _ = opened([good, path])
            assert source.batch(torch.arange(2)).shape[0] == 2


class Refused(Exception):
    pass


@contextlib.contextmanager
def _as_refused(words):
    """Expect a ValueError with these words; any other exception fails the test."""
    try:
        yield
    except ValueError as error:
        if not re.search(words, str(error)):
            raise
        raise Refused from error


def mutated(whole, rng):
    """Flip bits in the header or anywhere, cut out a part, or truncate the file."""
    kind, at = rng.integers(4), int(rng.integers(len(whole)))
    if kind < 2:
        changed = bytearray(whole)
        for position in rng.integers(min(len(whole), 64 if kind else len(whole)), size=rng.integers(1, 5)):
            changed[position] ^= 1 << rng.integers(8)
        return bytes(changed)
    return whole[:at] if kind == 2 else whole[:at] + whole[at + int(rng.integers(1, 50)) :]
