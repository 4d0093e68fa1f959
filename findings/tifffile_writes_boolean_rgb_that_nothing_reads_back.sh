#!/usr/bin/env bash
# tifffile writes boolean images of several interleaved channels so that neither it nor GDAL reads them back.
# Guess beforehand: a lossless round trip, or an error.
# Observed: half of the values are wrong after imwrite and imread; planarconfig='separate' is right.
# Exits with 0 if this still is so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 tifffile==2026.3.3 imagecodecs==2026.3.6 rasterio==1.4.4 'affine<3'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np, rasterio, tifffile
a = np.random.default_rng(0).random((20, 37, 3)) > 0.5
tifffile.imwrite("a.tif", a, photometric="rgb")
tifffile.imwrite("b.tif", a.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
same = (tifffile.imread("a.tif") == a).mean(), (rasterio.open("a.tif").read().transpose(1, 2, 0) == a).mean()
planes = (tifffile.imread("b.tif").transpose(1, 2, 0) == a).mean()
print("same values: tifffile %.2f, GDAL %.2f; in planes %.2f" % (*same, planes))
assert max(same) < 0.7 and planes == 1
PY
