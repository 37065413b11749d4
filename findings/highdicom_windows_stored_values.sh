#!/bin/bash
# highdicom 0.28.2 takes the half unit and the unit of DICOM's linear window (PS3.3, C.11.2.1.2.1: centre - 0.5, width - 1) off stored
# values where a slope rescales them, though the window is one of rescaled values (C.11.2). pydicom 3.0.2 does as the standard says.
# With slope 2, window 0 to 2000 and stored value 817 (610 rescaled), as a share of the window:
# Seen:
#   standard: 0.305153
#   pydicom: 0.305153
#   highdicom: 0.305305
set -eu
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv venv
venv/bin/pip install -q highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6
venv/bin/python - <<'PY' | tee seen
import highdicom
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

made = Dataset()
made.file_meta = FileMetaDataset()
made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
for name, value in {"SOPClassUID": CTImageStorage, "SOPInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(),
                    "SeriesInstanceUID": generate_uid(), "Modality": "CT", "Rows": 1, "Columns": 1, "SamplesPerPixel": 1,
                    "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
                    "PixelRepresentation": 0, "RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 1000, "WindowWidth": 2000,
                    "PixelData": np.array([[817]], np.uint16).tobytes()}.items():
    setattr(made, name, value)
made.save_as("a.dcm", enforce_file_format=True)
tags = dcmread("a.dcm")
shown, low, high = apply_voi_lut(apply_modality_lut(tags.pixel_array, tags), tags)[0, 0], -1024, 65535 * 2 - 1024
print(f"standard: {(817 * 2 - 1024 - 999.5) / 1999 + 0.5:.6f}")
print(f"pydicom: {(shown - low) / (high - low):.6f}")
print(f"highdicom: {highdicom.imread('a.dcm').get_frame(1, apply_voi_transform=True)[0, 0]:.6f}")
PY
diff seen - <<'SEEN'
standard: 0.305153
pydicom: 0.305153
highdicom: 0.305305
SEEN
