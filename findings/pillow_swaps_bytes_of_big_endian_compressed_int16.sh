#!/usr/bin/env bash
# Pillow swaps the bytes of big-endian, compressed, valid TIFFs of int16, int32 and float32, without a word.
# Guess beforehand: equal arrays, as for uncompressed files and for uint16.
# Observed: uncompressed and uint16 are right; zlib int16, int32 and float32 have their bytes swapped.
# Exits with 0 if this still is so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 pillow==13.0.0 tifffile==2026.3.3
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np, tifffile
from PIL import Image
seen = {}
for dtype in ("uint16", "int16", "int32", "float32"):
    a = np.arange(100, 200).reshape(10, 10).astype(dtype)
    for compression in (None, "zlib"):
        tifffile.imwrite("a.tif", a, byteorder=">", compression=compression, photometric="minisblack")
        read = np.asarray(Image.open("a.tif")).astype(dtype)
        seen[dtype, compression] = "right" if (read == a).all() else "swapped" if (read.byteswap() == a).all() else "other"
        print(dtype, compression, seen[dtype, compression], read[0, 0], "of", a[0, 0])
wrong = {key for key, what in seen.items() if what != "right"}
assert wrong == {(d, "zlib") for d in ("int16", "int32", "float32")}, seen
PY
