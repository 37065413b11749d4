"""The stage on folders as `prepare` and `generate` leave them, with pasted lesions in the place of generated ones."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from scipy import ndimage

from benchmarks.filter import speed
from benchmarks.floors import Machine
from meddiff.cases import Case, image_png, write_image, write_mask
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.pairs import list_accepted
from meddiff.outputs.reviews import decide_pair, put_review
from meddiff.outputs.samples import read_mode, read_pair, read_records, read_samples
from meddiff.params import Params
from meddiff.segmentation.segmenter import Architecture, Segmenter
from meddiff.services.tracking import Unrecorded
from tests.conftest import make_cases
from tests.shards import change, mask_ids, put_batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Great Expectations imports modules that Python 3.11 deprecates
    from meddiff.filtering.features import load_extractor
    from meddiff.filtering.measuring import Judge, measure_samples
    from meddiff.stages import filter as stage

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
N = 6


class Recorder(Unrecorded):
    """Keeps what the stage tells."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.headlines: dict[str, float] = {}
        self.files: list[Path] = []
        self.table = pd.DataFrame()

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.values |= values

    def headline(self, values: Mapping[str, float]) -> None:
        self.headlines |= values

    def file(self, path: Path, folder: str = "") -> None:
        self.files.append(path)

    def dataset(self, frame: pd.DataFrame, name: str, context: str) -> None:
        self.table = frame


def write_cases(layout: Layout, cases: list[Case], split: str = "train") -> None:
    folder = layout.cases(split)
    rows = []
    for case in cases:
        write_image(folder / f"images/{case.id}.png", case.image)
        assert case.mask is not None
        write_mask(folder / f"masks/{case.id}.png", case.mask)
        rows.append({"id": case.id, "group": case.group, "labelled": "1", "image_sha256": "", "mask_sha256": ""})
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)


def write_batch(layout: Layout, batch: str, cases: list[Case]) -> None:
    """The cases as samples named after batch and place."""
    put_batch(layout.synthetic / batch, [
        {"id": f"s_{batch}_{i:02d}", "batch": batch, "seed": i, "background": "normal_0", "area": float(np.mean(case.mask)),
         "guidance_scale": 1.5, "steps": 3, "generator": "abc"} for i, case in enumerate(cases)],
        [(case.image, np.asarray(case.mask)) for case in cases])


def settings(tiny: Params, **changes: float | str) -> Params:
    return tiny.model_copy(update={"filter": tiny.filter.model_copy(update=changes)})


def accepted(layout: Layout) -> list[Case]:
    return [pair.read() for pair in list_accepted(layout)]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Twelve training cases; batches `b0` of new lesions and `b1` of copies of training lesions."""
    layout, training = Layout(tmp_path), make_cases(12, seed=1)
    write_cases(layout, training)
    write_cases(layout, make_cases(10, seed=3), "val")
    write_batch(layout, "b0", make_cases(N, seed=2))
    write_batch(layout, "b1", training[:N])
    torch.manual_seed(0)
    Segmenter(Architecture("unet", 8).build(), Architecture("unet", 8)).save(layout.inspector)
    return layout


def test_everything_is_written_and_belongs_together(layout: Layout, tiny: Params) -> None:
    recorder = Recorder()
    stage.run(layout, settings(tiny, corrosion_radius=4.0), recorder)
    records = read_records(layout.synthetic, layout.filtered)
    assert records.decisions["verdict"].tolist() == ["accepted"] * 2 * N
    assert records.decisions["reason"].tolist() == [""] * 2 * N
    assert records.reasons == {"b0": (), "b1": ()}
    assert records.decisions["area"].to_numpy() == pytest.approx(records.samples["area"].to_numpy())
    assert records.decisions["nearest"][N:].tolist() == [f"case_1_{i:03d}" for i in range(N)]
    for case in accepted(layout):
        guiding = read_pair(layout.synthetic, case.group, case.id)[1]
        assert case.mask is not None
        assert 0 < case.mask.sum() < guiding.sum()
        assert (case.mask <= guiding).all()
    assert recorder.headlines == {"acceptance": 1.0, "copies": 0.0}
    assert recorder.files == [layout.quality / "index.html"]
    assert {"share_agreement", "share_quarantined", "bound_similarity_high", "samples_per_second"} <= set(recorder.values)
    assert recorder.table["id"].tolist() == records.samples["id"].tolist()


def test_fidelity_is_measured_before_and_after_the_filter(layout: Layout, tiny: Params) -> None:
    recorder = Recorder()
    stage.run(layout, settings(tiny, keep_copies=False, min_acceptance=0.5), recorder)
    found = json.loads((layout.filtered / "fidelity.json").read_text())
    assert {name: one["n"] for name, one in found["sets"].items()} == {
        "training": 12, "generated": 2 * N, "accepted": (n := recorder.headlines["acceptance"] * 2 * N), "corroded": n}
    assert found["n_reference"] == 10
    assert recorder.values["copy_share_generated"] >= 0.5
    assert recorder.values["copy_share_generated"] > recorder.values["copy_share_accepted"]
    assert recorder.values["kid_lesion_generated"] == found["sets"]["generated"]["kid"]["lesion"]["mean"]
    assert recorder.values["corrosion_share"] == found["corrosion"]["share"]
    assert recorder.values["seam_generated"] == found["sets"]["generated"]["seam"] > 0.5
    assert recorder.values["seam_training"] > 0.5


def test_auto_erodes_masks_that_are_too_wide(layout: Layout, tiny: Params) -> None:
    tight = make_cases(12, seed=2)
    wide = [replace(case, mask=ndimage.binary_dilation(case.mask, iterations=2).astype(np.uint8)) for case in tight]
    write_batch(layout, "b0", wide)
    write_batch(layout, "b1", make_cases(1, seed=4))
    recorder = Recorder()
    stage.run(layout, settings(tiny, corrosion_radius="auto"), recorder)
    assert recorder.values["corrosion_share"] > 0.1
    kept = {case.id: case.mask for case in accepted(layout)}
    areas = np.array([(case.mask.sum(), kept[f"s_b0_{i:02d}"].sum(), tight[i].mask.sum()) for i, case in enumerate(wide)])
    before, after = np.median(areas[:, :2] / areas[:, 2:], axis=0)
    assert before > 1.5
    assert after == pytest.approx(1, abs=0.25)
    profiles = pd.read_csv(layout.filtered / "corrosion.csv")
    assert list(profiles) == ["distance", "real", "painted", "corroded"]
    far = (profiles["painted"] - profiles["real"]).abs().mean()
    assert (profiles["corroded"] - profiles["real"]).abs().mean() < far / 2


def test_copies_are_rejected_and_their_batch_is_quarantined(layout: Layout, tiny: Params) -> None:
    recorder = Recorder()
    stage.run(layout, settings(tiny, keep_copies=False, min_acceptance=0.5), recorder)
    records = read_records(layout.synthetic, layout.filtered)
    by_batch = records.decisions.groupby("batch")["verdict"].agg(set)
    assert by_batch["b0"] <= {"accepted", "rejected"}
    assert by_batch["b1"] == {"quarantined"}
    assert set(records.decisions["reason"][N:]) == {"batch: acceptance; copy"}
    assert records.reasons["b1"] == ("At least 50% of the samples are accepted: 0",)
    assert mask_ids(layout) == {pair.id for pair in list_accepted(layout)}
    assert not any(id.startswith("s_b1") for id in mask_ids(layout))
    assert recorder.headlines["copies"] >= 0.5
    assert recorder.values["batches_quarantined"] == 1
    assert not json.loads((layout.filtered / "batches.json").read_text())["b1"]["passed"]


def test_a_wrong_size_quarantines_the_batch_with_its_good_samples(layout: Layout, tiny: Params) -> None:
    image = Image.fromarray(read_pair(layout.synthetic, "b0", "s_b0_02")[0]).resize((48, 48))
    change(layout.synthetic / "b0/batch.parquet", "s_b0_02", image=image_png(np.array(image)))
    stage.run(layout, tiny, Unrecorded())
    decisions = read_records(layout.synthetic, layout.filtered).decisions
    assert set(decisions["reason"][:N]) == {"batch: image size"}
    assert decisions["verdict"][N:].tolist() == ["accepted"] * N


def test_the_page_stands_alone_and_shows_both_sides(layout: Layout, tiny: Params) -> None:
    stage.run(layout, settings(tiny, keep_copies=False, min_acceptance=0.0), Unrecorded())
    page = (layout.quality / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|@import|url\(|src=\"(?!data:)", page)
    assert re.findall(r"href=\"([^\"]*)\"", page) == ["data_docs/index.html"]
    assert (layout.quality / "data_docs/index.html").is_file()
    for text in ("Batches: 2 of 2 passed", "Masks cover 0.1% to 90% of the image", ">copy</span>", ">accepted</span>",
                 "nearest: case_1_000 (right)"):
        assert text in page


def test_the_same_inputs_give_the_same_decisions(layout: Layout, tiny: Params) -> None:
    stage.run(layout, tiny, Unrecorded())
    first = (layout.filtered / "decisions.parquet").read_bytes(), (layout.filtered / "batches.json").read_text()
    stage.run(layout, tiny, Unrecorded())
    assert first == ((layout.filtered / "decisions.parquet").read_bytes(), (layout.filtered / "batches.json").read_text())


def outputs(layout: Layout) -> dict[str, bytes]:
    """The files of the stage, but for Data Docs, which tell the time."""
    files = [*layout.filtered.rglob("*"), layout.quality / "index.html"]
    return {str(path.relative_to(layout.root)): path.read_bytes() for path in files if path.is_file()}


def test_people_remove_and_keep_pairs_but_no_copies(layout: Layout, tiny: Params, capsys: pytest.CaptureFixture[str]) -> None:
    strict = settings(tiny, keep_copies=False, agreement=1.0, min_acceptance=0.0)
    stage.run(layout, strict, Unrecorded())
    before = read_records(layout.synthetic, layout.filtered).decisions.set_index("id")
    assert set(before["reason"]) == {"agreement", "copy"}
    decide_pair(layout, "b0", "s_b0_01", "accept", "Bo")
    decide_pair(layout, "b1", "s_b1_00", "accept", "Bo")
    decide_pair(layout, "b0", "s_b0_02", "reject", "Bo")
    recorder = Recorder()
    stage.run(layout, strict, recorder)
    after = read_records(layout.synthetic, layout.filtered).decisions.set_index("id")
    assert after.loc["s_b0_01", ["verdict", "reason"]].tolist() == ["accepted", "person"]
    assert after.drop("s_b0_01").equals(before.drop("s_b0_01"))
    assert [pair.id for pair in list_accepted(layout)] == ["s_b0_01"]
    assert mask_ids(layout) == {"s_b0_01"}
    assert json.loads((layout.filtered / "reviews.json").read_text()) == {
        "kept": 1, "removed": 0, "agreed": 1, "refused": 1, "outdated": 0}
    assert recorder.values["reviewed_kept"] == 1
    assert recorder.headlines["copies"] == pytest.approx((before["reason"] == "copy").mean())
    page = (layout.quality / "index.html").read_text(encoding="utf-8")
    for words in ("1 kept by people although a rule is against them", "1 accepted by people and yet", "kept by a person"):
        assert words in page
    assert "filter: 1 kept by people" in capsys.readouterr().err
    open_bounds = settings(tiny, min_acceptance=0.0)
    stage.run(layout, open_bounds, Unrecorded())
    after = read_records(layout.synthetic, layout.filtered).decisions.set_index("id")
    assert after.loc["s_b0_02", ["verdict", "reason"]].tolist() == ["rejected", "person"]
    assert "s_b0_02" not in mask_ids(layout)
    assert "person <b>1</b>" in (layout.quality / "index.html").read_text(encoding="utf-8")


def test_without_decisions_the_outputs_are_the_same_to_the_byte(layout: Layout, tiny: Params) -> None:
    strict = settings(tiny, keep_copies=False, min_acceptance=0.0)
    stage.run(layout, strict, Unrecorded())
    first = outputs(layout)
    assert "people" not in first["reports/quality/index.html"].decode()
    decide_pair(layout, "b0", "s_b0_01", "reject", "Bo")
    stage.run(layout, strict, Unrecorded())
    assert outputs(layout) != first
    put_review(layout, "s_b0_01", None)
    stage.run(layout, strict, Unrecorded())
    assert outputs(layout) == first


def test_another_extractor_changes_similarity_alone(layout: Layout, tiny: Params) -> None:
    found = {}
    for extractor in ("lesion", "inspector"):
        stage.run(layout, settings(tiny, extractor=extractor), Unrecorded())
        found[extractor] = read_records(layout.synthetic, layout.filtered).decisions
        fidelity = json.loads((layout.filtered / "fidelity.json").read_text())
        assert fidelity["extractor"] == {"lesion": "lesion statistics"}.get(extractor, extractor)
    one, other = found.values()
    assert (one["similarity"] - other["similarity"]).abs().max() > 1e-3
    assert one[["agreement", "contrast"]].equals(other[["agreement", "contrast"]])


def test_nothing_accepted_is_written_and_said(layout: Layout, tiny: Params, capsys: pytest.CaptureFixture[str]) -> None:
    stage.run(layout, settings(tiny, min_contrast=250.0, min_acceptance=0.0), Unrecorded())
    assert f"none of {2 * N} samples was accepted" in capsys.readouterr().err
    assert mask_ids(layout) == set()
    assert (layout.quality / "index.html").is_file()
    assert list_accepted(layout) == []


@pytest.mark.parametrize(("damage", "message"), [
    (lambda root: change(root / "synthetic/b0/batch.parquet", "s_b0_01", image=None),
     r"b0/batch\.parquet \(image of s_b0_01\): the row has no picture\. Run `dvc repro generate`"),
    (lambda root: change(root / "synthetic/b1/batch.parquet", "s_b1_03", mask=b"GIF"),
     r"mask of s_b1_03\): a mask must be there and decode"),
    (lambda root: (root / "synthetic/b1/batch.parquet").unlink(), r"b1/batch\.parquet: a batch's table must be there"),
    (lambda root: (root / "synthetic").rename(root / "elsewhere"), r"synthetic: .*at least one batch"),
    (lambda root: (root / "data/train/cases.csv").unlink(), r"cases\.csv"),
    (lambda root: (root / "models/inspector").rename(root / "elsewhere"), r"inspector: .*dvc repro backgrounds"),
])
def test_missing_files_are_named_and_leave_earlier_outputs(layout: Layout, tiny: Params, damage: object, message: str) -> None:
    stage.run(layout, tiny, Unrecorded())
    before = (layout.filtered / "decisions.parquet").read_bytes(), (layout.quality / "index.html").read_bytes()
    assert callable(damage)
    damage(layout.root)
    with pytest.raises(MeddiffError, match=message):
        stage.run(layout, tiny, Unrecorded())
    assert before == ((layout.filtered / "decisions.parquet").read_bytes(), (layout.quality / "index.html").read_bytes())
    assert np.array_equal(sorted(p.name for p in layout.filtered.parent.iterdir() if p.name.startswith(".filtered")), [])


def test_scores_do_not_depend_on_the_number_of_threads(layout: Layout) -> None:
    cases, samples = read_cases(layout.cases("train")), read_samples(layout.synthetic)
    read, mode_of = partial(read_pair, layout.synthetic), partial(read_mode, layout.synthetic)
    inspector = Segmenter.load(layout.inspector)
    before, tables = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            measured = measure_samples(samples, Judge(cases, load_extractor(), inspector, read, mode_of).measure)
            assert torch.get_num_threads() == threads
            tables.append(measured.facts.join(measured.scores.table))
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert tables[0]["id"].is_monotonic_increasing


def test_the_benchmark_times_scoring_and_the_whole_stage(
    layout: Layout, tiny: Params, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.params.write_text(yaml.safe_dump(tiny.model_dump(mode="json")))
    monkeypatch.setattr("benchmarks.filter.machine", lambda device: Machine({"float32": 1e11, "tf32": 1e11}, 1e10))
    threads = torch.get_num_threads()
    speed(layout.root)
    torch.set_num_threads(threads)
    told = capsys.readouterr().out
    assert f"{2 * N} samples: best" in told
    assert "the whole stage:" in told
    assert not layout.filtered.exists()
