"""Where everything lies in a project folder. Each path is written here once; `dvc.yaml` is held against it by a test."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meddiff.errors import MeddiffError

STAGES = ("prepare", "foundation", "backgrounds", "mask_model", "finetune", "generate", "filter", "segment", "evaluate")
SITE = "site:"  # in `backgrounds.csv`, before the case whose lesion was filled in


@dataclass(frozen=True)
class Layout:
    """The paths below one project root.

    Args:
        root: folder that holds `params.yaml` and `dvc.yaml`.
    """

    root: Path

    @property
    def home(self) -> Path:
        """The project folder: `root`, or the project that a work tree in `.work/` or one of DVC's experiments belongs to."""
        root = self.root.resolve()
        return next((path.parents[0 if path.name == ".work" else 2] for path in root.parents
                     if path.name == ".work" or path.parts[-3:] == (".dvc", "tmp", "exps")), root)

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def reviews(self) -> Path:
        """What people decided on synthetic pairs, by `meddiff browse`; kept in git, and read by `filter`."""
        return self.root / "reviews.csv"

    @property
    def withdrawals(self) -> Path:
        """The patients that were withdrawn, as salted hashes: kept by git, and left out by `prepare`."""
        return self.root / "withdrawals.yaml"

    @property
    def split(self) -> Path:
        """`{"train": [id…], "val": […], "test": […]}`, made once by patient group."""
        return self.root / "data/split.json"

    @property
    def left_out(self) -> Path:
        """Every case that is in no part, file that isn't read and annotation that isn't used, and why."""
        return self.root / "data/left_out.csv"

    @property
    def near_duplicates(self) -> Path:
        """The pairs of images that are of one group by their look."""
        return self.root / "data/near_duplicates.csv"

    def cases(self, split: str) -> Path:
        """Folder of one split: `images/ID.png`, `masks/ID.png` (absent for unlabelled training images), `cases.csv`."""
        return self.root / "data" / split

    @property
    def normal(self) -> Path:
        """The dataset's own lesion-free images `images/ID.png` with `backgrounds.csv` (id, source, group, sha256)."""
        return self.root / "data/backgrounds"

    @property
    def outlines(self) -> Path:
        """A sheet of images with the outlines of their masks, from the smallest to the largest: for eyes alone."""
        return self.root / "data/outlines.png"

    @property
    def backgrounds(self) -> Path:
        """What lesions are painted into: `images/ID.png`, with `backgrounds.csv` (id, source, group, method, sha256)."""
        return self.root / "backgrounds"

    @property
    def inspector(self) -> Path:
        """The independent segmenter, trained on the annotated training cases alone."""
        return self.root / "models/inspector"

    @property
    def foundation(self) -> Path:
        """A diffusers inpainting pipeline folder."""
        return self.root / "models/foundation"

    @property
    def mask_model(self) -> Path:
        return self.root / "models/mask_model"

    @property
    def generator(self) -> Path:
        """The fine-tuned pipeline folder, with `loss.csv`."""
        return self.root / "models/generator"

    @property
    def segmenters(self) -> Path:
        """`ARM/SEED/` folders of trained segmenters and `validation.csv`."""
        return self.root / "models/segmenters"

    @property
    def synthetic(self) -> Path:
        """`BATCH/batch.parquet`: a row a sample, its image and mask in it."""
        return self.root / "synthetic"

    @property
    def filtered(self) -> Path:
        """`decisions.parquet` (one row a sample), `masks.parquet` (corroded, accepted samples only), `batches.json`."""
        return self.root / "filtered"

    @property
    def quality(self) -> Path:
        """The quality page that works offline, and Great Expectations' Data Docs."""
        return self.root / "reports/quality"

    @property
    def report(self) -> Path:
        """`summary.json`, `per_case.csv`, `report.html`, `pictures/`."""
        return self.root / "reports/evaluation"

    @property
    def ablation(self) -> Path:
        """`table.csv`, `table.md` and `sheet.png` of `meddiff ablate`."""
        return self.root / "reports/ablation"

    @property
    def benchmark(self) -> Path:
        """`benchmark.html`, its tables and pictures, and the two cards of `meddiff benchmark`."""
        return self.root / "reports/benchmark"

    @property
    def work(self) -> Path:
        """State that DVC doesn't track: checkpoints, unfinished batches, local databases, work trees of flow runs."""
        return self.root / ".work"


def free_folder(out: Path, content: str) -> Path:
    """The whole path of a folder that is missing or empty.

    Args:
        content: what goes there, for the error.

    Raises:
        MeddiffError: it holds something, or is a file.
    """
    out = out.resolve()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise MeddiffError(out, f"the folder for the {content} must be new or empty", "Name another")
    return out


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give an empty sibling folder to write into, and put it in the place of `target` when the block succeeds.

    A failure leaves `target` as it was: a half-written folder never looks finished, and an old output that is a
    read-only link into DVC's cache is never written through.
    """
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
