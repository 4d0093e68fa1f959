#!/usr/bin/env bash
# Pillow takes the start of the file for the blocks that a sparse, uncompressed GeoTIFF leaves out.
# Guess beforehand: zeros, as GDAL and tifffile read, or an error.
# Observed: the header and tags of the file appear as pixels, without a word.
# Exits with 0 if this still is so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 pillow==13.0.0 tifffile==2026.3.3 rasterio==1.4.4 'affine<3'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np, rasterio, tifffile
from PIL import Image
options = dict(driver="GTiff", width=64, height=64, count=1, dtype="uint8", tiled=True, blockxsize=32, blockysize=32)
with rasterio.open("a.tif", "w", sparse_ok=True, interleave="pixel", **options) as f:
    f.write(np.full((1, 32, 32), 9, np.uint8), window=rasterio.windows.Window(32, 32, 32, 32))
read = np.asarray(Image.open("a.tif"))
zeros = rasterio.open("a.tif").read(1)[:32, :32]
print("Pillow:", read[0, :4], "GDAL:", zeros[0, :4], "tifffile:", tifffile.imread("a.tif")[0, :4])
assert zeros.max() == tifffile.imread("a.tif")[:32, :32].max() == 0
assert bytes(read[0, :4]) == b"II*\0"
PY
