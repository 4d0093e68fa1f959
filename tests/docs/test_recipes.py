"""The readers of the recipes, on files of several instruments: the values that a person would work out."""

import re
from pathlib import Path

import numpy as np
import pytest

from sklearn_ssl import FilePart, list_parts

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"


@pytest.fixture
def recipe():
    """Return the functions and constants of a page, from the blocks of code that define functions."""

    def load(page, n_blocks=1):
        text = (RECIPES / f"{page}.md").read_text()
        blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        names = {}
        for block in [block for block in blocks if re.search("^def ", block, re.MULTILINE)][:n_blocks]:
            code = re.split(r"^(?!def |import |from |[A-Z]+ = |[ #\n])", block, flags=re.MULTILINE)[0]
            exec(code, names)
        return names

    return load


# ------------------------------------------------------------------ DICOM


@pytest.fixture
def dicom(tmp_path):
    """Write a DICOM file of stored values ([frames, ]rows, columns[, colors]); return its path."""
    pydicom = pytest.importorskip("pydicom")

    def write(values, bits=16, name="a.dcm", kind="MONOCHROME2", **tags):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset = pydicom.dataset.FileDataset(tmp_path / name, {}, file_meta=meta, preamble=bytes(128))
        has_colors = kind in ("RGB", "YBR_FULL")
        is_multi = values.ndim == (4 if has_colors else 3)
        dataset.Rows, dataset.Columns = values.shape[is_multi : is_multi + 2]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3 if has_colors else 1, kind
        if has_colors:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * values.itemsize, bits, bits - 1
        dataset.PixelRepresentation = int(values.dtype.kind == "i")
        if is_multi:
            dataset.NumberOfFrames = len(values)
        for tag, value in tags.items():
            setattr(dataset, tag, value)
        dataset.PixelData = values.tobytes()
        dataset.save_as(dataset.filename)
        return Path(dataset.filename)

    return write


UNITS = np.array([[-1024, -160, 40, 140, 240, 1000]])  # Hounsfield units
SHOWN = [[0, 0, 0.5, 0.75, 1, 1]]  # in the window 40 / 400
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}


@pytest.mark.parametrize("bits", [12, 13, 16])
@pytest.mark.parametrize("inverted", [False, True])
def test_the_same_hounsfield_units_have_the_same_value_in_any_number_of_bits(recipe, dicom, bits, inverted):
    kind = "MONOCHROME1" if inverted else "MONOCHROME2"
    unsigned = dicom((UNITS + 1024).astype(np.uint16), bits, kind=kind, **CT)
    signed = dicom(UNITS.astype(np.int16), bits, "b.dcm", kind, **{**CT, "RescaleIntercept": 0})
    several = {**CT, "RescaleIntercept": -1024.0, "WindowCenter": [40, 300], "WindowWidth": [400, 1500]}
    windows = dicom((UNITS + 1024).astype(np.uint16), bits, "c.dcm", kind, **several)
    expected = 1 - np.array(SHOWN) if inverted else SHOWN
    for path in (unsigned, signed, windows):
        read = recipe("dicom")["read_dicom"](path)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, expected)


def test_files_without_a_window_get_a_fixed_one(recipe, dicom):
    without = {name: value for name, value in CT.items() if not name.startswith("Window")}
    empty = {**without, "WindowCenter": None, "WindowWidth": None}
    for i, tags in enumerate((without, empty)):
        path = dicom((UNITS + 1024).astype(np.uint16), 12, f"{i}.dcm", **tags)
        np.testing.assert_array_equal(recipe("dicom")["read_dicom"](path), SHOWN)


def test_a_table_in_place_of_a_window(recipe, dicom):
    import pydicom

    table = pydicom.Dataset()
    table.LUTDescriptor = [4, 100, 12]
    table.add_new("LUTData", "US", [0, 1365, 2730, 4095])
    path = dicom(np.uint16([[99, 100, 101, 102, 103, 104]]), 12, VOILUTSequence=[table])
    expected = np.array([[0, 0, 1, 2, 3, 3]]) / 3
    np.testing.assert_allclose(recipe("dicom")["read_dicom"](path), expected, rtol=1e-6)


def test_a_palette_gives_colors(recipe, dicom):
    colors = np.array([[0, 128, 255], [255, 0, 51]])
    for bits in (8, 16):
        tags = {}
        for name, entries in zip(("Red", "Green", "Blue"), colors.T, strict=True):
            table = f"{name}PaletteColorLookupTable"
            data = entries.astype("<u1") if bits == 8 else (entries * 257).astype("<u2")
            tags |= {f"{table}Descriptor": [2, 0, bits], f"{table}Data": data.tobytes()}
        indices = np.uint8([[0, 1], [1, 0]])
        path = dicom(indices, 8, kind="PALETTE COLOR", **tags)
        np.testing.assert_allclose(recipe("dicom")["read_dicom"](path), colors[indices] / 255, rtol=1e-6)


def test_colors_of_ultrasound_are_rgb(recipe, dicom):
    colors = np.uint8([[[255, 0, 0], [0, 51, 102]]])
    path = dicom(colors, 8, kind="RGB")
    np.testing.assert_allclose(recipe("dicom")["read_dicom"](path), colors / 255, rtol=1e-6)
    gray = np.uint8([[[51, 128, 128], [204, 128, 128]]])  # luminance, and no color
    path = dicom(gray, 8, kind="YBR_FULL")
    np.testing.assert_allclose(
        recipe("dicom")["read_dicom"](path), gray[..., :1] * [1, 1, 1] / 255, rtol=1e-6
    )


def test_each_frame_is_an_image(recipe, dicom, embedder):
    names = recipe("dicom")
    stored = np.arange(5 * 8 * 8, dtype=np.uint16).reshape(5, 8, 8)
    path = dicom(stored, 12, WindowCenter=160, WindowWidth=320)
    with pytest.raises(ValueError, match="it has several frames: list_parts"):
        names["read_dicom"](path)
    parts = list_parts([path], names["frames"])
    assert [item.part for item in parts] == [0, 1, 2, 3, 4]
    for item in parts:
        np.testing.assert_array_equal(names["read_frame"](item), np.float32(stored[item.part] / 320))
    assert embedder(reader__read=names["read_frame"]).fit(parts).image_shape_ == (8, 8, 1)


def test_frames_of_an_enhanced_file_have_a_slope_and_a_window_each(recipe, dicom):
    import pydicom

    def group(**sequences):
        dataset = pydicom.Dataset()
        for sequence, tags in sequences.items():
            item = pydicom.Dataset()
            for tag, value in tags.items():
                setattr(item, tag, value)
            setattr(dataset, sequence, [item])
        return dataset

    stored = np.repeat(np.uint16([[[0, 10, 20]]]), 2, axis=0)
    window = {"WindowCenter": 20, "WindowWidth": 40}
    slopes = [
        group(PixelValueTransformationSequence={"RescaleSlope": s, "RescaleIntercept": 0}) for s in (1, 2)
    ]
    shared = [group(FrameVOILUTSequence=window)]
    path = dicom(stored, 12, PerFrameFunctionalGroupsSequence=slopes, SharedFunctionalGroupsSequence=shared)
    read = [recipe("dicom")["read_frame"](FilePart(path, frame)) for frame in (0, 1)]
    np.testing.assert_array_equal(read, [[[0, 0.25, 0.5]], [[0, 0.5, 1]]])


# ------------------------------------------------------------------ NIfTI


@pytest.fixture
def nifti(tmp_path):
    """Write a volume whose axes point right, anterior and superior, stored in another orientation."""
    nibabel = pytest.importorskip("nibabel")

    def write(volume, orientation="RAS", slope=None, dtype=np.float32):
        canonical = nibabel.Nifti1Image(volume.astype(np.float32), np.diag([2, 2, 3, 1]))
        turned = canonical.as_reoriented(
            nibabel.orientations.ornt_transform(
                nibabel.io_orientation(canonical.affine), nibabel.orientations.axcodes2ornt(orientation)
            )
        )
        values = np.asarray(turned.dataobj)
        stored = ((values + 1024) / slope if slope else values).astype(dtype)
        image = nibabel.Nifti1Image(stored, turned.affine)
        if slope:
            image.header.set_slope_inter(slope, -1024)
        nibabel.save(image, tmp_path / "a.nii.gz")
        return tmp_path / "a.nii.gz"

    return write


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "ASL"])
@pytest.mark.parametrize(("slope", "dtype"), [(None, np.float32), (2, np.int16)])
def test_slices_are_the_same_in_any_orientation_and_type(recipe, nifti, orientation, slope, dtype):
    names = recipe("nifti")
    volume = np.arange(5 * 6 * 4).reshape(5, 6, 4) * 2.0 - 1024  # x to the right, y to the front, z up
    path = nifti(volume, orientation, slope, dtype)
    slices = list_parts([path], names["axial_slices"])
    assert [item.part for item in slices] == [(0,), (1,), (2,), (3,)]
    for item in slices:  # the front is above, the right is on the right
        front_to_back = volume[:, ::-1, item.part[0]].T
        np.testing.assert_array_equal(names["read_slice"](item), front_to_back)


def test_times_of_a_volume_of_four_axes_are_images(recipe, nifti):
    names = recipe("nifti")
    volume = np.random.default_rng(0).normal(size=(5, 6, 2, 3)).astype(np.float32)
    slices = list_parts([nifti(volume)], names["axial_slices"])
    assert len(slices) == 6
    np.testing.assert_array_equal(names["read_slice"](slices[5]), volume[:, ::-1, 1, 2].T)


# ------------------------------------------------------------------ microscopy


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("CYX", (1, 24, 40)),
        ("CYX", (2, 24, 40)),
        ("CYX", (5, 40, 40)),
        ("YX", (24, 40)),
        ("YXS", (24, 40, 3)),
        ("TCYX", (1, 3, 24, 40)),
        ("ZCYX", (1, 1, 24, 40)),
        ("TZCYX", (1, 1, 2, 24, 40)),
    ],
)
@pytest.mark.parametrize("is_ome", [True, False])
def test_channels_are_last_whatever_axes_the_file_has(recipe, tmp_path, axes, shape, is_ome):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("zarr")
    values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    path = tmp_path / ("a.ome.tif" if is_ome else "a.tif")
    kind = "rgb" if axes == "YXS" else "minisblack"
    tifffile.imwrite(path, values, metadata={"axes": axes}, photometric=kind)
    expected = values if axes == "YXS" else np.moveaxis(values.reshape(-1, *shape[-2:]), 0, -1)
    np.testing.assert_array_equal(recipe("microscopy")["read_channels"](path), expected)


@pytest.mark.parametrize(("axes", "t", "z", "c"), [("TCYX", 2, 1, 3), ("ZCYX", 1, 4, 2), ("TZCYX", 2, 3, 2)])
def test_planes_of_a_stack_have_their_channels(recipe, tmp_path, axes, t, z, c):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("zarr")
    names, path = recipe("microscopy"), tmp_path / "a.ome.tif"
    values = np.arange(t * z * c * 8 * 12, dtype=np.uint16).reshape(t, z, c, 8, 12)
    kept = values.reshape([n for axis, n in zip("TZCYX", values.shape, strict=True) if axis in axes])
    tifffile.imwrite(path, kept, metadata={"axes": axes}, photometric="minisblack")
    with pytest.raises(ValueError, match="it has several planes: list_parts"):
        names["read_channels"](path)
    parts = list_parts([path], names["planes_of"])
    assert len(parts) == t * z
    for item in parts:
        np.testing.assert_array_equal(names["read_plane"](item), np.moveaxis(values[item.part], 0, -1))


# ------------------------------------------------------------------ tiles


@pytest.fixture
def scene(tmp_path):
    """Write a GeoTIFF of bands (n, height, width)."""
    rasterio = pytest.importorskip("rasterio")

    def write(bands, **options):
        n, height, width = bands.shape
        shape = {"width": width, "height": height, "count": n, "dtype": bands.dtype}
        with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **shape, **options) as file:
            file.write(bands)
        return tmp_path / "a.tif"

    return write


def noise(n, dtype, low=1, high=255):
    return np.random.default_rng(0).integers(low, high, (n, 64, 64)).astype(dtype)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.filterwarnings("ignore:The dataset's nodata attribute is shadowing the alpha band")
@pytest.mark.parametrize(
    "options", [{}, {"nodata": 0}, {"photometric": "rgb"}, {"photometric": "minisblack"}]
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_near_infrared_is_data_however_it_is_declared(recipe, scene, dtype, options):
    names, bands = recipe("tiles"), noise(4, dtype, low=1, high=60)
    bands[3, :, :32] = 3  # infrared is dark in half of the scene, as over water
    parts = list_parts([scene(bands, **options)], names["windows"])
    assert [item.part for item in parts] == [(0, 0), (0, 32), (32, 0), (32, 32)]
    np.testing.assert_array_equal(names["read_window"](parts[0]), bands[:, :32, :32].transpose(1, 2, 0))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("int16", -9999), ("float32", np.nan)])
def test_windows_need_data_in_all_bands_and_missing_pixels_get_the_mean(recipe, scene, dtype, nodata):
    names, bands = recipe("tiles"), noise(3, dtype)
    bands[1, :32, :32] = nodata  # one of three bands
    bands[:, 32:, 32:] = nodata
    bands[0, 0, 32] = nodata  # a single pixel
    parts = list_parts([scene(bands, nodata=nodata)], names["windows"])
    assert [item.part for item in parts] == [(0, 32), (32, 0)]
    read = names["read_window"](parts[0])
    expected = bands[:, :32, 32:].transpose(1, 2, 0).copy()
    expected[0, 0] = expected.reshape(-1, 3)[1:].mean(axis=0)
    np.testing.assert_allclose(read, expected, rtol=1e-5)
    assert read.dtype == bands.dtype
