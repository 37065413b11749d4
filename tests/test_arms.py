"""One owner for the arms: a further one is a row, a function of its pairs, and words; then it is everywhere."""

import re
from pathlib import Path

import pandas as pd
import pytest

from meddiff.delivery.nnunet import export
from meddiff.errors import MeddiffError
from meddiff.evaluation import arms as looks
from meddiff.evaluation.arms import LOOKS, ArmLook, arm_name, look_of, main_arms
from meddiff.experiments.benchmark.figures import figures
from meddiff.experiments.benchmark.page import benchmark_page
from meddiff.experiments.benchmark.significance import by_size, detection, gains, scores
from meddiff.experiments.benchmark.tables import Tables
from meddiff.layout import Layout
from meddiff.outputs.pairs import KINDS, PairFiles, list_accepted
from meddiff.params import arms
from meddiff.params.arms import ARMS, PUBLISHED, Arm, arm_names, arm_of, rivals_of
from meddiff.segmentation.augmentation import AUGMENTATIONS
from meddiff.services.tracking import Unrecorded
from meddiff.stages import evaluate, segment
from tests.experiments.test_benchmark_page import FACTS, cells
from tests.stages.test_evaluate import Trained, fill, put_backgrounds, settings

ROOT = Path(__file__).parents[1]


def list_first(layout: Layout) -> list[PairFiles]:
    """The first two accepted pairs."""
    return list_accepted(layout)[:2]


@pytest.fixture
def further(monkeypatch: pytest.MonkeyPatch) -> str:
    """A further arm: a row, a function and words."""
    monkeypatch.setattr(arms, "ARMS", (*ARMS, Arm("first", "rival", ("first",))))
    monkeypatch.setitem(KINDS, "first", list_first)
    monkeypatch.setitem(LOOKS, "first", ArmLook("real + the first pairs", "#123456", 8))
    return "first"


def test_a_further_arm_is_in_segment_report_benchmark_and_export(further: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                 ) -> None:
    layout, params = fill(tmp_path / "project"), settings(segment={"arms": ["real", "synthetic", further], "seeds": [0]})
    put_backgrounds(layout)
    trained = Trained(monkeypatch)
    segment.run(layout, params, Unrecorded())
    assert [pair.id for pair in trained.calls[2].pairs] == [pair.id for pair in list_first(layout)]
    assert (layout.segmenters / further / "0/model.safetensors").is_file()
    assert pd.read_csv(layout.segmenters / "validation.csv")["n_synthetic"].tolist() == [0, 3, 2]

    evaluate.run(layout, params, Unrecorded())
    report = (layout.report / "report.html").read_text()
    for words in ("“real + the first pairs” against real images only", "Synthetic arm against “real + the first pairs”",
                  "<td>real + the first pairs</td>", "Dice, real + the first pairs"):
        assert words in report, words

    table = pd.read_csv(layout.report / "per_case.csv", keep_default_na=False, na_values=[""]).assign(dataset="busi", budget=40)
    compared = gains(table, params.evaluate)
    assert {("first", "real"), ("synthetic", "first")} <= set(zip(compared["arm"], compared["against"], strict=True))
    used = pd.read_csv(layout.segmenters / "validation.csv").assign(dataset="busi", budget=40)
    tables = Tables(scores(table, params.evaluate), compared, cells(), used, detection(table, params.evaluate),
                    by_size(table, params.evaluate), table)
    page = re.sub("<[^>]+>", " ", benchmark_page(tables, figures(tables.scores, compared, FACTS), FACTS, []))
    assert len(re.findall(r"real \+ the first pairs", page)) >= 6, "scores, sizes, detection, differences, both ways, and a rival"
    assert re.search(r"Dice points of real \+ synthetic images over\s+busi\s+real \+ the first pairs", page)

    made = export(layout, params, tmp_path / "raw", further)
    assert (made.real, made.added) == (8, 2)


def test_an_arm_that_is_none_is_told_which_there_are(further: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"an arm must be real, .*, first, synthetic_xRATIO with a number"):
        settings(segment={"arms": ["second"]})
    with pytest.raises(MeddiffError, match=r"arm second: nnU-Net gets one of real, .*, first, synthetic_xRATIO"):
        export(fill(tmp_path), settings(), tmp_path / "raw", "second")


def test_every_row_is_complete() -> None:
    assert {*(arm.name for arm in ARMS), PUBLISHED} == set(LOOKS)
    assert {kind for arm in ARMS for kind in (*arm.adds, arm.pasted_on) if kind} == set(KINDS)
    assert {arm.augmentation for arm in ARMS} == set(AUGMENTATIONS)
    for values in ([arm.name for arm in ARMS], [look.words for look in LOOKS.values()],
                   [look.colour for look in LOOKS.values()], [look.place for look in LOOKS.values() if look.place]):
        assert len(set(values)) == len(values)
    assert {arm for arm, look in LOOKS.items() if look.pairs} == set(rivals_of())


def test_the_methods_are_held_against_those_above_them_and_the_rivals() -> None:
    rivals = ("copy_paste", "copy_paste_sites", "self_training", "consistency", "combined_pasted", "augmented", "paper")
    assert rivals_of() == {"synthetic": (*rivals, "unfiltered", "uncorroded"), "combined": ("synthetic", *rivals)}


def test_a_ratio_makes_an_arm_of_its_own_like_the_synthetic_one() -> None:
    assert arm_of("synthetic_x0.5") == Arm("synthetic_x0.5", "other", ("accepted",), ratio=0.5)
    assert arm_name("synthetic_x0.5") == "real + synthetic images, up to 0.5 for each real one"
    assert not look_of("synthetic_x0.5").place
    for wrong in ("synthetic_x0", "synthetic_x", "synthetic_x-1", "synthetic_x1000", "combined_x2", PUBLISHED):
        with pytest.raises(ValueError, match="synthetic_xRATIO with a number above 0"):
            arm_of(wrong)


def test_where_there_is_room_for_a_few_the_main_arms_are_shown_in_their_order() -> None:
    few = [arm.name for arm in ARMS][:looks.ROOM]
    assert main_arms(few) == few
    every = [arm.name for arm in ARMS]
    assert main_arms(every) == ["real", "augmented", "copy_paste", "self_training", "synthetic", "combined"]
    parts = ["unfiltered", *(f"synthetic_x{n}" for n in range(1, 8))]
    assert main_arms(parts) == parts[:looks.ROOM]


def test_nnunet_gets_the_arms_that_nothing_but_files_tells_apart() -> None:
    assert arm_names(in_files=True) == ["real", "synthetic", "combined", "self_training", "unfiltered", "uncorroded",
                                        "synthetic_only", "synthetic_xRATIO"]


def test_the_documents_describe_every_arm() -> None:
    rows = "\n".join(line for path in (ROOT / "docs").rglob("*.md") for line in path.read_text().splitlines() if line[:1] == "|")
    assert [name for name in arm_names() if f"`{name}`" not in rows] == []
