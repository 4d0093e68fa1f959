#!/usr/bin/env bash
# tifffile reads NaN in LERC-compressed TIFFs as 0: the mask of valid pixels inside LERC is dropped.
# Guess beforehand: NaN, as written and as GDAL reads.
# Observed: 0.0 in silence, for every band and interleaving: heights without data become sea level.
# Exits with 0 if this still is so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 tifffile==2026.3.3 imagecodecs==2026.3.6 rasterio==1.4.4 'affine<3'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np, rasterio, tifffile
a = np.full((20, 30), 500, np.float32)
a[3, 4] = np.nan
with rasterio.open("a.tif", "w", driver="GTiff", width=30, height=20, count=1, dtype="float32", compress="lerc", nodata=np.nan) as f:
    f.write(a, 1)
by_gdal, by_tifffile = rasterio.open("a.tif").read(1), tifffile.imread("a.tif")
print("GDAL:", by_gdal[3, 4], "tifffile:", by_tifffile[3, 4])
assert np.array_equal(by_gdal, a, equal_nan=True) and by_tifffile[3, 4] == 0
PY
