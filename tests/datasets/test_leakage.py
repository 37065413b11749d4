"""A test case planted anywhere in the chain ends the evaluation before a score is taken; a clean project passes."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate

from meddiff.cases import Case, Frame, Pixels, image_png, read_image, write_image
from meddiff.datasets.demo import make_phantoms
from meddiff.datasets.leakage import Used, look, photographed, refuse_leaks
from meddiff.datasets.splits import near_duplicates, thumbnail
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.pairs import list_unfiltered
from meddiff.outputs.samples import sample_image
from meddiff.params import Params
from meddiff.pretrained import FOUNDATION, photographs
from meddiff.services.tracking import Unrecorded
from meddiff.stages import evaluate, prepare
from tests.datasets.test_registration import cropped
from tests.shards import change, put_batch
from tests.stages.test_prepare import raw_folder

SETTINGS = Params.model_validate({"prepare": {"size": 64, "dataset": "folder", "path": "raw", "n_labelled": 12},
                                  "compute": {"threads": 1, "device": "cpu"}})
COPY = "copy, perhaps turned, mirrored or cropped,"
PASSED = "the segmenters of an arm must be there"  # the next thing that a project of this fixture lacks


def changed(image: Pixels) -> Pixels:
    """Brightened, at half the resolution."""
    side = len(image)
    small = Image.fromarray(image).resize((side // 2, side // 2), Image.Resampling.BILINEAR)
    again = np.asarray(small.resize((side, side), Image.Resampling.BILINEAR))
    return np.clip(again * 1.05 + 6, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    raw_folder(root / "raw", 40, 24, 64)
    prepare.run(Layout(root), SETTINGS, Unrecorded())
    return root


@pytest.fixture
def layout(prepared: Path, tmp_path: Path) -> Layout:
    """A project that was prepared from files, with backgrounds and one accepted sample, and a table of segmenters alone."""
    shutil.copytree(prepared, tmp_path / "project")
    layout = Layout(tmp_path / "project")
    shutil.copytree(layout.normal / "images", layout.backgrounds / "images")
    train = read_cases(layout.cases("train"))[0]
    write_image(layout.backgrounds / f"images/{train.id}_removed.png", train.image)
    table = pd.read_csv(layout.normal / "backgrounds.csv", dtype=str)[["id", "source", "group"]]
    removed = {"id": f"{train.id}_removed", "source": f"removed:{train.id}", "group": train.group}
    pd.concat([table, pd.DataFrame([removed])]).to_csv(layout.backgrounds / "backgrounds.csv", index=False)
    background = table["id"][0]
    grounds = (("s0", background), ("s1", f"{train.id}_removed"))
    put_batch(layout.synthetic / "b0000", [
        {"id": id, "batch": "b0000", "seed": i, "background": b, "area": 0.1, "guidance_scale": 1.5, "steps": 3, "generator": "g"}
        for i, (id, b) in enumerate(grounds)], [(image := read_image(layout.backgrounds / f"images/{b}.png"), image[..., 0] * 0)
                                                for _, b in grounds])
    layout.filtered.mkdir()
    pd.DataFrame([{"id": id, "batch": "b0000", "similarity": 0.5, "nearest": train.id, "agreement": 0.9, "contrast": 9.0,
                   "area": 0.1, "verdict": verdict, "reason": ""} for id, verdict in (("s0", "accepted"), ("s1", "rejected"))]
                 ).to_parquet(layout.filtered / "decisions.parquet")
    (layout.filtered / "batches.json").write_text('{"b0000": {"reasons": []}}')
    layout.segmenters.mkdir(parents=True)
    table = "arm,seed,dice,steps,n_real,n_synthetic,n_wanted\nreal,0,0.5,1,12,0,0\n"
    (layout.segmenters / "validation.csv").write_text(table)
    return layout


def lesion_and_free(layout: Layout) -> tuple[Case, Case]:
    """A test case with a lesion, and one without."""
    cases = read_cases(layout.cases("test"))
    return tuple(next(case for case in cases if case.mask is not None and bool(case.mask.any()) == lesion)
                 for lesion in (True, False))  # type: ignore[return-value]


def add_row(table: Path, **values: str) -> None:
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    with table.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0].keys())
        writer.writeheader()
        blank = {name: "0" if name in ("top", "left", "height", "width") else "" for name in rows[0]}
        writer.writerows([*rows, blank | values])


def plant(layout: Layout, place: Path, table: str, id: str, image: Pixels, **values: str) -> None:
    write_image(place / f"images/{id}.png", image)
    add_row(place / table, id=id, **values)


def in_a_part(part: str) -> Callable[[Layout, Case], str]:
    def spoil(layout: Layout, case: Case) -> str:
        plant(layout, layout.cases(part), "cases.csv", "other", changed(case.image), group="other", labelled="0")
        return rf"data/{part}/other: .*`other` is a near-duplicate of test case `{case.id}`"

    return spoil


def mirrored(layout: Layout, case: Case) -> str:
    plant(layout, layout.cases("train"), "cases.csv", "other", changed(case.image)[:, ::-1], group="other", labelled="0")
    return rf"data/train/other: .*`other` is a mirrored near-duplicate of test case `{case.id}`"


def copied(change: Callable[[Pixels], Pixels]) -> Callable[[Layout, Case], str]:
    def spoil(layout: Layout, case: Case) -> str:
        plant(layout, layout.cases("train"), "cases.csv", "other", change(changed(case.image)), group="other", labelled="0")
        return rf"data/train/other: .*`other` is a {COPY} of test case `{case.id}`"

    return spoil


def mirrored_sample(layout: Layout, case: Case) -> str:
    change(layout.synthetic / "b0000/batch.parquet", "s0", image=image_png(changed(case.image)[:, ::-1]))
    return rf"synthetic/b0000/s0: .*`s0` is a {COPY} of test case `{case.id}`"


def same_pixels(layout: Layout, case: Case) -> str:
    plant(layout, layout.normal, "backgrounds.csv", "other", case.image, source="normal")
    return rf"data/backgrounds/other: .*`other` has the very pixels of test case `{case.id}`"


def same_id(layout: Layout, case: Case) -> str:
    plant(layout, layout.cases("train"), "cases.csv", case.id, np.zeros_like(case.image), labelled="0")
    return rf"data/train/{case.id}: .*`{case.id}` is test case `{case.id}` or made from it"


def same_group(layout: Layout, case: Case) -> str:
    unlike = make_phantoms(1, True, 64, "mixed", 99)[0].image
    plant(layout, layout.cases("train"), "cases.csv", "other", unlike, group=case.group, labelled="0")
    return rf"data/train/other: .*`other` and test case `{case.id}` are of one group, `{case.group}`"


def as_background(layout: Layout, case: Case) -> str:
    plant(layout, layout.backgrounds, "backgrounds.csv", "other", changed(case.image), source="normal")
    return rf"backgrounds/other: .*`other` is a near-duplicate of test case `{case.id}`"


def as_cleared_background(layout: Layout, case: Case) -> str:
    id = f"{case.id}_removed"
    plant(layout, layout.backgrounds, "backgrounds.csv", id, np.zeros_like(case.image), source=f"removed:{case.id}")
    return rf"backgrounds/{id}: .*`{id}` is test case `{case.id}` or made from it"


def recorded(ending: str) -> Callable[[Layout, Case], str]:
    def spoil(layout: Layout, case: Case) -> str:
        table = layout.synthetic / "b0000/batch.parquet"
        rows = pd.read_parquet(table)
        rows.loc[1, "background"] = case.id + ending   # of the rejected sample
        rows.to_parquet(table)                         # in one row group, as any program writes it
        return rf"synthetic/b0000/s1: .*`s1` is test case `{case.id}` or made from it"

    return spoil


def as_sample(layout: Layout, case: Case) -> str:
    change(layout.synthetic / "b0000/batch.parquet", "s0", image=image_png(changed(case.image)))
    return rf"synthetic/b0000/s0: .*`s0` is a {COPY} of test case `{case.id}`"


def test_a_clean_project_goes_on(layout: Layout) -> None:
    with pytest.raises(MeddiffError, match=PASSED):
        evaluate.run(layout, SETTINGS, Unrecorded())


def test_a_rejected_sample_is_looked_at_where_an_arm_learns_from_it(layout: Layout) -> None:
    case, drawn = lesion_and_free(layout)[0], list_unfiltered(layout)[0].id
    clean = read_image(sample_image(layout.synthetic, "b0000", "s0"))
    table = layout.filtered / "decisions.parquet"
    decisions = pd.read_parquet(table)
    decisions.assign(verdict=np.where(decisions["id"] == drawn, "rejected", "accepted")).to_parquet(table)
    for id in decisions["id"]:
        change(layout.synthetic / "b0000/batch.parquet", id, image=image_png(changed(case.image) if id == drawn else clean))
    with pytest.raises(MeddiffError, match=PASSED):
        evaluate.run(layout, SETTINGS, Unrecorded())
    with (layout.segmenters / "validation.csv").open("a") as trained:
        trained.write("unfiltered,0,0.5,1,12,1,1\n")
    with pytest.raises(MeddiffError, match=rf"`{drawn}` is a {COPY} of test case `{case.id}`"):
        evaluate.run(layout, SETTINGS, Unrecorded())


@pytest.mark.parametrize("lesion", [True, False])
@pytest.mark.parametrize("spoil", [
    in_a_part("train"), in_a_part("val"), copied(lambda image: image[:, ::-1]), copied(lambda image: np.rot90(image[:, ::-1])),
    copied(lambda image: rotate(image, 20, reshape=False, order=1)), copied(lambda image: cropped(image[:, ::-1], 7, 5)),
    mirrored_sample, same_pixels, same_id, same_group, as_background,
    as_cleared_background, recorded(""), recorded("_removed"), as_sample,
])
def test_a_planted_leak_is_named(spoil: Callable[[Layout, Case], str], lesion: bool, layout: Layout) -> None:
    words = spoil(layout, lesion_and_free(layout)[not lesion])
    with pytest.raises(MeddiffError, match=words) as caught:
        evaluate.run(layout, SETTINGS, Unrecorded())
    assert "dvc repro" in caught.value.remedy
    assert not layout.report.exists()


def test_a_test_case_that_the_foundation_has_seen_is_refused(layout: Layout, tmp_path: Path) -> None:
    """By the raw file's bytes, under whatever name; and only where this foundation is used."""
    case = lesion_and_free(layout)[0]
    table = layout.cases("test") / "cases.csv"
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    assert all(len(digest) == 64 for digest in rows["raw_sha256"])
    name, digest = next(iter(photographs(FOUNDATION).items()))
    rows.loc[rows["id"] == case.id, "raw_sha256"] = digest
    rows.to_csv(table, index=False)
    with pytest.raises(MeddiffError, match=rf"data/test/{case.id}: .*foundation `embedded`.*`{case.id}` as photograph `{name}`"
                       ) as caught:
        evaluate.run(layout, SETTINGS, Unrecorded())
    assert "`foundation.source` to `scratch`, or move these cases" in caught.value.remedy
    scratch = SETTINGS.model_copy(update={"foundation": SETTINGS.foundation.model_copy(update={"source": "scratch"})})
    with pytest.raises(MeddiffError, match=PASSED):
        evaluate.run(layout, scratch, Unrecorded())


def test_photographs_are_known_by_bytes_or_by_name() -> None:
    shown = {"ISIC_0000001.jpg": "aa", "ISIC_0000002.jpg": "bb"}
    assert photographed({"x": "bb", "ISIC_0000001": "cc", "y": "", "z": "dd"}, shown) == {
        "x": "ISIC_0000002.jpg", "ISIC_0000001": "ISIC_0000001.jpg"}
    assert photographs(Path("nowhere")) == {}
    assert len(photographs(FOUNDATION)) == 1290


def test_prepare_tells_of_photographs_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that nobody trains for hours before `evaluate` refuses."""
    raw = raw_folder(tmp_path / "raw", 24, 0, 64)
    names = [Path(name).stem for name in photographs(FOUNDATION)]
    for path, name in zip(sorted((raw / "images").iterdir()), names, strict=False):
        for kind in ("images", "masks"):
            (raw / kind / path.name).rename(raw / kind / f"{name}.png")
    prepare.run(Layout(tmp_path), SETTINGS, Unrecorded())
    seen = len(read_cases(Layout(tmp_path).cases("test")))
    assert f"prepare: {seen} test cases are photographs that the foundation `embedded`" in capsys.readouterr().err


@pytest.mark.parametrize("table", ["data/train/cases.csv", "data/backgrounds/backgrounds.csv", "backgrounds/backgrounds.csv"])
def test_nothing_is_scored_unless_all_could_be_looked_at(table: str, layout: Layout) -> None:
    (layout.root / table).unlink()
    with pytest.raises(MeddiffError, match=r"must be there\. Run `dvc repro (prepare|backgrounds)`"):
        evaluate.run(layout, SETTINGS, Unrecorded())


def test_bars_are_no_likeness() -> None:
    """Wide images between black bars: as squares all look alike."""
    frame, wide = Frame(24, 0, 16, 64), []
    for i in range(12):
        image = np.zeros((64, 64, 3), np.uint8)
        image[24:40] = 120 + gaussian_filter(np.random.default_rng(i).normal(0, 40, (16, 64, 1)), (2, 2, 0))
        wide.append(Case(f"w{i}", image, None, f"g{i}", frame))
    squares = np.stack([thumbnail(case.image) for case in wide])
    assert len(near_duplicates(squares, 4)) == 12 * 11 / 2
    used = [Used("data/train", case.id, case.id, look=look(case.image, frame)) for case in wide[6:]]
    refuse_leaks(wide[:6], used, 4)
    planted = Used("data/train", "x", "x", look=look((wide[2].image * 1.1 + 6).astype(np.uint8), frame))
    with pytest.raises(MeddiffError, match=f"`x` is a near-duplicate of test case `{wide[2].id}`"):
        refuse_leaks(wide[:6], [*used, planted], 4)


def test_a_painted_image_must_agree_in_detail() -> None:
    """Smooth skin with the lesion in the same place is no copy; the same as a real image is, to be on the safe side."""
    y, x = np.mgrid[:64, :64]
    coarse = 60 + 3.0 * np.hypot(y - 30, x - 34)
    one, other = (np.repeat(np.clip(coarse + gaussian_filter(np.random.default_rng(i).normal(0, 12, (64, 64)), 0.7), 0, 255)
                            [..., None], 3, 2).astype(np.uint8) for i in (0, 1))
    test = [Case("t", one, np.ones((64, 64), np.uint8))]
    alike = Used("synthetic/b0000", "s0", "bg", look=look(other), painted=True)
    refuse_leaks(test, [alike], 4)
    for leak, kind in ((replace(alike, painted=False), "near-duplicate"), (replace(alike, look=look(changed(one))), COPY)):
        with pytest.raises(MeddiffError, match=f"`s0` is a {kind} of test case `t`"):
            refuse_leaks(test, [leak], 4)


def test_a_round_field_of_view_alone_makes_no_copy() -> None:
    """The edge of the field is the strongest structure of a dermoscopic image, and the same in many."""
    y, x = np.mgrid[:64, :64]
    field = np.clip((36 - np.hypot(y - 31.5, x - 31.5)) / 2, 0, 1)
    skins = [180 + gaussian_filter(np.random.default_rng(i).normal(0, 25, (64, 64)), 1.5) for i in range(2)]
    one, other = (np.repeat((field * skin)[..., None], 3, 2).astype(np.uint8) for skin in skins)
    assert len(near_duplicates(np.stack([thumbnail(one), thumbnail(other)]), 4)) == 1
    test = [Case("t", one, np.ones((64, 64), np.uint8))]
    refuse_leaks(test, [Used("synthetic/b0000", "s0", "bg", look=look(other), painted=True)], 4)
    for copy in (changed(one), changed(one)[:, ::-1]):
        with pytest.raises(MeddiffError, match=f"{COPY} of test case `t`"):
            refuse_leaks(test, [Used("synthetic/b0000", "s0", "bg", look=look(copy), painted=True)], 4)


def test_all_leaks_are_counted_and_nothing_used_is_no_leak() -> None:
    test = [Case("a", np.zeros((32, 32, 3), np.uint8), None), Case("b", np.zeros((32, 32, 3), np.uint8), None)]
    refuse_leaks(test, [], 4)
    refuse_leaks(test, [Used("synthetic/b0000", "s0", "given")], 4)
    with pytest.raises(MeddiffError, match=r"data/train/a: .*\(1 more leaks were found\)"):
        refuse_leaks(test, [Used("data/train", id, id) for id in ("a", "b", "c")], 4)
