"""Dermoscopy datasets: ISIC-2017, ISIC-2018 (both task 1, lesion segmentation) and PH2."""

from pathlib import Path

from meddiff.datasets.adapters.listing import entry, list_files, require_pairs
from meddiff.datasets.adapters.raw import RawCase
from meddiff.errors import MeddiffError, likewise

_MASK_ENDING = "_segmentation"


def isic2017(path: Path) -> list[RawCase]:
    """ISIC-2017 part 1: `ISIC-2017_Training_Data/ID.jpg`, `ISIC-2017_Training_Part1_GroundTruth/ID_segmentation.png`; likewise
    `_Validation_` and `_Test_v2_`.

    The challenge's parts, where they are there, are the split; `ID_superpixels.png` beside the images is left aside.

    Raises:
        MeddiffError: see `read`.
    """
    names = {"train": "Training", "val": "Validation", "test": "Test_v2"}
    return _isic({part: (path / f"ISIC-2017_{name}_Data", path / f"ISIC-2017_{name}_Part1_GroundTruth")
                  for part, name in names.items()})


def isic2018(path: Path) -> list[RawCase]:
    """ISIC-2018 task 1: `ISIC2018_Task1-2_Training_Input/ID.jpg`, `ISIC2018_Task1_Training_GroundTruth/ID_segmentation.png`;
    likewise `_Validation_` and `_Test_`.

    The challenge's parts, where they are there, are the split.

    Raises:
        MeddiffError: see `read`.
    """
    names = {"train": "Training", "val": "Validation", "test": "Test"}
    return _isic({part: (path / f"ISIC2018_Task1-2_{name}_Input", path / f"ISIC2018_Task1_{name}_GroundTruth")
                  for part, name in names.items()})


def _isic(folders: dict[str, tuple[Path, Path]]) -> list[RawCase]:
    # The training part must be there; where another part isn't, the training part is divided, so it is no preset then.
    there = {part: pair for part, pair in folders.items() if part == "train" or pair[0].is_dir() or pair[1].is_dir()}
    complete = there.keys() == folders.keys()
    cases = []
    for part, (data, truth) in there.items():
        images = {stem: file for stem, file in list_files(data).items() if not stem.endswith("_superpixels")}
        masks = {stem.removesuffix(_MASK_ENDING): file for stem, file in list_files(truth).items()
                 if stem.endswith(_MASK_ENDING)}
        require_pairs(images, masks, (data, truth), _MASK_ENDING)
        preset = part if complete or part != "train" else None
        cases += [RawCase(name, file, (masks[name],), part=preset) for name, file in images.items()]
    return cases


def ph2(path: Path) -> list[RawCase]:
    """PH2: `PH2Dataset/PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp`, `…/IMD002_lesion/IMD002_lesion.bmp`.

    `path` may be the folder above `PH2Dataset`, that folder, or `PH2 Dataset images` itself.

    Raises:
        MeddiffError: see `read`.
    """
    below = [path / "PH2Dataset/PH2 Dataset images", path / "PH2 Dataset images", path]
    root = next((folder for folder in below if folder.is_dir() and any(folder.glob("IMD*/"))), None)
    if root is None:
        raise MeddiffError(path, "a PH2 dataset holds `PH2Dataset/PH2 Dataset images/IMD…/`",
                           "Unpack it as its authors publish it, and correct `prepare.path`")
    places = {folder.name: [entry(folder / f"{folder.name}_{kind}", f"{folder.name}{ending}.bmp")
                            for kind, ending in (("Dermoscopic_Image", ""), ("lesion", "_lesion"))]
              for folder in sorted(root.glob("IMD*")) if folder.is_dir()}
    if lone := [file for files in places.values() for file in files if not file.is_file()]:
        further = likewise([file.name for file in lone[1:]])
        raise MeddiffError(lone[0], f"a PH2 case must have its image and its lesion mask{further}",
                           "Add it, or take its folder IMD… out")
    return [RawCase(name, image, (mask,)) for name, (image, mask) in places.items()]
