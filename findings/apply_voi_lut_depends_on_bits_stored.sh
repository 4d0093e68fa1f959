#!/usr/bin/env bash
# pydicom: the same Hounsfield units in the same window give values 16 times as large if BitsStored is 16 instead of 12.
# Guess beforehand: one range of display values, whatever the scanner stores.
# Observed: 9 HU in the window 40 / 400 becomes 710 with 12 bits, and about 26,700 with 16.
# Exits with 0 if this still is so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 pydicom==3.0.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np, pydicom
from pydicom.pixels import apply_modality_lut, apply_voi_lut
seen = {}
for bits in (12, 13, 16):
    ds = pydicom.Dataset()
    ds.BitsStored, ds.PixelRepresentation, ds.PhotometricInterpretation = bits, 0, "MONOCHROME2"
    ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth = 1, -1024, 40, 400
    stored = np.uint16([[9 + 1024]])
    seen[bits] = float(apply_voi_lut(apply_modality_lut(stored, ds), ds)[0, 0])
    print(bits, "bits:", round(seen[bits]))
assert round(seen[12]) == 710 and 26000 < seen[16] < 27500 and seen[12] < seen[13] < seen[16]
PY
