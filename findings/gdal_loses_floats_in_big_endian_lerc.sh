#!/usr/bin/env bash
# GDAL loses some values of big-endian float32 in LERC, although MAX_Z_ERROR=0 is lossless.
# Guess beforehand: a lossless round trip, as for little-endian and for float64.
# Observed: values that are NaN once their bytes are swapped come back as almost 0 (6.9e-41).
# Exits with 0 if this still is so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 rasterio==1.4.4 'affine<3'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np, rasterio
a = np.random.default_rng(1).normal(0, 300, (100, 100)).astype("float32")
lost = {}
for order in ("little", "big"):
    with rasterio.open("a.tif", "w", driver="GTiff", width=100, height=100, count=1, dtype="float32", compress="lerc", endianness=order) as f:
        f.write(a, 1)
    read = rasterio.open("a.tif").read(1)
    wrong = read != a
    lost[order] = int(wrong.sum())
    print(order, lost[order], "of", a.size, "differ:", a[wrong][:2], "became", read[wrong][:2])
assert lost["little"] == 0 and lost["big"] > 0
assert np.isnan(a[wrong].byteswap()).all() and (np.abs(read[wrong]) < 1e-30).all()
PY
