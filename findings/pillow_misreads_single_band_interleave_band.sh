#!/usr/bin/env bash
# Pillow misreads tiled single-band GeoTIFFs that were written from the profile of another (INTERLEAVE=BAND), little-endian.
# Guess beforehand: equal arrays: with one band, the planar configuration means nothing.
# Observed: int16 is read as other values without a word, uint16 raises 'unknown raw mode'.
# Exits with 0 if this still is so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 pillow==13.0.0 rasterio==1.4.4 'affine<3'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np, rasterio
from PIL import Image
outcomes = {}
for dtype in ("int16", "uint16", "uint8"):
    a = np.random.default_rng(0).integers(0, 200, (40, 40)).astype(dtype)
    with rasterio.open("source.tif", "w", driver="GTiff", width=40, height=40, count=1, dtype=dtype) as f:
        f.write(a, 1)
    with rasterio.open("source.tif") as f:
        profile = f.profile
    assert profile["interleave"] == "band"
    profile.update(tiled=True, blockxsize=16, blockysize=16)
    with rasterio.open("a.tif", "w", **profile) as f:
        f.write(a, 1)
    try:
        read = np.asarray(Image.open("a.tif"))
        outcomes[dtype] = "right" if (read == a).all() else f"wrong: {read.min()} to {read.max()}, not {a.min()} to {a.max()}"
    except Exception as error:
        outcomes[dtype] = str(error)
    print(dtype, outcomes[dtype])
assert outcomes["int16"].startswith("wrong") and "raw mode" in outcomes["uint16"] and outcomes["uint8"] == "right"
PY
