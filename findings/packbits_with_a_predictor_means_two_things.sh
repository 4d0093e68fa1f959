#!/usr/bin/env bash
# PackBits with predictor=True by tifffile is read back by tifffile, but as differences by GDAL and Pillow.
# Guess beforehand: equal arrays: the predictor is a tag of the file, which all readers follow.
# Observed: GDAL (libtiff) and Pillow ignore the predictor of PackBits: horizontal differences, without a word.
# Exits with 0 if this still is so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 pillow==13.0.0 tifffile==2026.3.3 imagecodecs==2026.3.6 rasterio==1.4.4 'affine<3'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np, rasterio, tifffile
from PIL import Image
a = np.tile(np.arange(100, 140, dtype=np.uint8), (20, 1))
tifffile.imwrite("a.tif", a, compression="packbits", predictor=True, photometric="minisblack")
reads = {"tifffile": tifffile.imread("a.tif"), "GDAL": rasterio.open("a.tif").read(1), "Pillow": np.asarray(Image.open("a.tif"))}
for name, read in reads.items():
    print(name, read[0, :4])
assert (reads["tifffile"] == a).all()
assert (reads["GDAL"][:, 1:] == 1).all() and (reads["Pillow"][:, 1:] == 1).all()
PY
