"""Accepted pairs as files of the clinic: DICOM images with DICOM SEG, NIfTI volumes of one slice. Each says it is synthetic.

Nothing of a source's tags is in them: a synthetic patient is a number that is given here.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meddiff.cases import Case, Pixels
from meddiff.delivery.clinical import write_dicom_mask
from meddiff.environment import require_extra
from meddiff.errors import MeddiffError

if TYPE_CHECKING:
    from highdicom.sc import SCImage

_RGB = [("R", "u1"), ("G", "u1"), ("B", "u1")]  # NIfTI's type 128
_ORIGIN = "Synthetic: a lesion painted by a diffusion model into an image, not acquired from a patient. Research use only."


def write_dicom(folder: Path, cases: Iterable[Case], classes: Sequence[str], root: str = "") -> None:
    """Write `images/ID.dcm`, Secondary Capture images of 8 bits, gray or RGB, and `masks/ID.dcm`, each a DICOM SEG.

    The cases of one group are of one synthetic patient, with a study and a series.

    Args:
        root: UID root that the new UIDs begin with; pydicom's where it is empty.

    Raises:
        MeddiffError: the extra isn't installed, or `root` is no UID root.
    """
    require_extra("dicom", "pydicom", "highdicom")
    from pydicom.uid import PYDICOM_ROOT_UID, generate_uid

    prefix = f"{root.removesuffix('.')}." if root else PYDICOM_ROOT_UID
    try:
        generate_uid(prefix)
    except ValueError:
        raise MeddiffError("--uid-root", f"it must be a UID root, numbers with dots between, not `{root}`",
                           "Give the one that your institution has registered, or none") from None
    patients: dict[str, tuple[int, str, str]] = {}
    for number, case in enumerate(cases, start=1):
        assert case.mask is not None
        patient = patients.setdefault(case.group, (len(patients) + 1, generate_uid(prefix), generate_uid(prefix)))
        image = folder / "images" / f"{case.id}.dcm"
        _captured(case.image, patient, generate_uid(prefix), number).save_as(image)
        write_dicom_mask(image, case.mask, classes, folder / "masks" / f"{case.id}.dcm", root=prefix)


def write_nifti(folder: Path, cases: Iterable[Case], classes: Sequence[str]) -> None:
    """Write `images/ID.nii.gz`, gray levels or RGB, and `masks/ID.nii.gz` of 0 to K: volumes of one axial slice.

    Columns run to the patient's left and rows to the back, as viewers show a picture upright; a pixel counts as 1 mm, since its
    size isn't known.

    Raises:
        MeddiffError: the extra isn't installed.
    """
    require_extra("volumes", "nibabel")
    import nibabel

    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    for case in cases:
        assert case.mask is not None
        gray = _plain_gray(case.image)
        for kind, pixels in (("images", case.image if gray is None else gray), ("masks", case.mask)):
            columns = np.ascontiguousarray(pixels.swapaxes(0, 1))
            made = nibabel.Nifti1Image((columns if pixels.ndim == 2 else columns.view(_RGB)[..., 0])[..., None], affine)
            made.set_qform(affine, "scanner")
            made.set_sform(affine, "scanner")
            made.header.set_xyzt_units("mm")
            made.header["descrip"] = f"synthetic, meddiff {version('meddiff')}"
            (folder / kind).mkdir(exist_ok=True)
            made.to_filename(folder / kind / f"{case.id}.nii.gz")


def _plain_gray(image: Pixels) -> Pixels | None:
    """The one channel `[H, W]` of an image whose channels are equal; None of a coloured one."""
    return image[:, :, 0] if (image == image[:, :, :1]).all() else None


def _captured(image: Pixels, patient: tuple[int, str, str], uid: str, number: int) -> "SCImage":
    """A Secondary Capture image of a synthetic patient, given by number, study and series."""
    from highdicom import ContributingEquipment
    from highdicom.sc import SCImage
    from pydicom.sr.codedict import codes

    gray, (n, study, series), now = _plain_gray(image), patient, datetime.now(UTC)
    painter = ContributingEquipment("meddiff", codes.DCM.SynthesizingEquipment, manufacturer_model_name="meddiff",
                                    software_versions=version("meddiff"), contribution_description="painted the lesion")
    made = SCImage(np.ascontiguousarray(image if gray is None else gray), "RGB" if gray is None else "MONOCHROME2", 8, "PATIENT",
                   study, series, 1, uid, number, "meddiff", patient_id=f"SYNTHETIC-{n:04d}", patient_name=f"Synthetic^{n:04d}",
                   study_date=now.date(), study_time=now.time(), study_id=str(n), patient_orientation=("L", "P"),
                   manufacturer_model_name="meddiff", software_versions=version("meddiff"),
                   series_description="meddiff: synthetic images", contributing_equipment=[painter])
    made.PatientOrientation = None  # it isn't known
    made.SyntheticData, made.ConversionType, made.ImageType = "YES", "SYN", ["DERIVED", "SECONDARY"]
    made.DerivationDescription, made.ImageComments = _ORIGIN, "synthetic"
    return made
