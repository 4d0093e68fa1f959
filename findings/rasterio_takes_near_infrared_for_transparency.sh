#!/usr/bin/env bash
# rasterio / GDAL: the fourth of four uint8 bands is declared alpha, and dataset_mask() is then the near infrared; not so for uint16.
# Guess beforehand: four bands of data, and a mask that is valid everywhere.
# Observed: colorinterp alpha for uint8, and the mask equals the fourth band; uint16, and uint8 with photometric='minisblack', have none.
# Exits with 0 if this still is so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 rasterio==1.4.4 'affine<3'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np, rasterio
bands = np.random.default_rng(0).integers(1, 60, (4, 32, 32))
masks = {}
for dtype, options in (("uint8", {}), ("uint8", {"photometric": "minisblack"}), ("uint16", {})):
    with rasterio.open("a.tif", "w", driver="GTiff", width=32, height=32, count=4, dtype=dtype, **options) as f:
        f.write(bands.astype(dtype))
    with rasterio.open("a.tif") as f:
        masks[dtype, len(options)] = f.dataset_mask()
        print(dtype, options, f.colorinterp[3].name, "mask from", f.dataset_mask().min(), "to", f.dataset_mask().max())
assert (masks["uint8", 0] == bands[3]).all()
assert masks["uint8", 1].min() == masks["uint16", 0].min() == 255
PY
