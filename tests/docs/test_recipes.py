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
