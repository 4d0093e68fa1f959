"""Settings of the reader."""

import numpy as np
import pytest

from sklearn_ssl import Reader
from sklearn_ssl._images.reader import make_reader


def test_a_reader_of_ones_own(embedder, images, tmp_path):
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i:02}.scan")
        paths[-1].write_bytes(image.tobytes())

    def read(path):
        return np.frombuffer(path.read_bytes(), np.uint8).reshape(8, 8, 3)

    fitted = embedder(reader__read=read).fit(paths)
    expected = embedder().fit(images).transform(images)
    np.testing.assert_array_equal(fitted.transform(paths), expected)
    np.testing.assert_array_equal(fitted.transform(tmp_path), expected)  # all files of a folder


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"on_error": "ignore"}, "reader__on_error='ignore': give 'raise' or 'skip'"),
        ({"read": "dicom"}, "reader__read='dicom': give a function from a path to an array"),
        ({"cache": 3}, "reader__cache=3: give the path of a folder, or None"),
        ({"memory_limit": 1.5}, "reader__memory_limit=1.5: give an integer of at least 1"),
        ({"max_pixels": 0}, "reader__max_pixels=0: give an integer of at least 1"),
        ({"workers": "many"}, "reader__workers='many': give an integer of at least 1"),
        ({"workers": True}, "reader__workers=True: give an integer of at least 1"),
        ({"background": "whitish"}, "reader__background='whitish': give a color"),
        ({"bacground": "white"}, "reader__bacground.* Did you mean 'reader__background'"),
    ],
)
def test_a_setting_that_cannot_be_is_told_what_can(embedder, images, params, words):
    with pytest.raises(ValueError, match=words):
        embedder(reader_params=params).fit(images)


def test_a_reader_has_no_name(embedder, images):
    words = r"reader='dicom': give a sklearn_ssl.Reader, or None.* reader__read=function"
    with pytest.raises(ValueError, match=words):
        embedder(reader="dicom").fit(images)


def test_an_instance_has_its_values_except_for_nested_ones(embedder):
    made = embedder(reader=Reader(on_error="skip", workers=2), reader__workers=1)
    assert make_reader(made.reader, made.reader_params) == Reader(on_error="skip", workers=1)
    listed = made.get_params()
    assert (listed["reader__on_error"], listed["reader__workers"]) == ("skip", 1)
