#!/usr/bin/env bash
# tifffile writes big-endian TIFFs of 9 to 15 bits per sample with swapped bytes.
# Guess beforehand: a lossless round trip, as for little-endian.
# Observed: 12 bits: little-endian right, big-endian almost all values wrong, for itself and for GDAL.
# Exits with 0 if this still is so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 tifffile==2026.3.3 imagecodecs==2026.3.6 rasterio==1.4.4 'affine<3'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np, rasterio, tifffile
a = np.random.default_rng(0).integers(0, 4096, (20, 37)).astype("uint16")
same = {}
for order in "<>":
    tifffile.imwrite("a.tif", a, bitspersample=12, byteorder=order, photometric="minisblack")
    same[order] = (tifffile.imread("a.tif") == a).mean(), (rasterio.open("a.tif").read(1) == a).mean()
    print(order, "same values: tifffile %.3f, GDAL %.3f" % same[order])
assert same["<"] == (1, 1) and max(same[">"]) < 0.1
PY
