"""The page tells the result as it is, holds everything itself, and its pictures draw."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddiff.cases import CLASS_COLOURS
from meddiff.evaluation.bootstrap import Interval
from meddiff.evaluation.closing import closing_lines
from meddiff.evaluation.figures import Pair, Shown, arms_plot, case_sheet, contact_sheet, gain_plot, loss_plot
from meddiff.evaluation.page import caveats, decision_warning, further, headline, report_page, verdict
from meddiff.evaluation.quality import Quality
from meddiff.evaluation.summary import Found, Summary
from meddiff.pages import Picture
from meddiff.params.arms import arm_names
from tests.markup import Checker


def interval(mean: float, lower: float, upper: float, cases: int = 40, seeds: int = 3) -> Interval:
    return Interval(mean, lower, upper, 0.95, cases, seeds)


def summary(gain: Interval | None = None, missed: int = 0, copies: int = 0) -> Summary:
    scores = {name: interval(0.61, 0.5, 0.7) for name in ("dice", "iou", "nsd")} | {"hd95": interval(7.25, 6, 8)}
    excluded = {arm: {"dice": 0, "iou": 0, "hd95": missed, "nsd": 0} for arm in ("real", "synthetic")}
    small = {arm: interval(0.4, 0.3, 0.5, 13) for arm in ("real", "synthetic")} | ({"gain": gain} if gain else {})
    quality = Quality(160, 80, copies, 4, 1, {"copy": copies, "<odd>": 1})
    return Summary({"real": scores, "synthetic": scores}, gain, {"small": small}, excluded, quality, 40, 80, 300)


def png(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def pixels(figure) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png(figure))).convert("RGB")).astype(int)


@pytest.mark.parametrize(("found", "words"), [
    (interval(0.021, 0.004, 0.038), r"raised the Dice: \+2.1 Dice points \(95% interval \+0.4 to \+3.8\)\.$"),
    (interval(-0.021, -0.038, -0.004), r"lowered the Dice: −2.1"),
    (interval(0.021, -0.004, 0.046), r"^No gain shown by synthetic pairs: \+2.1 .* includes zero"),
    (interval(-0.021, -0.046, 0.004), r"^No gain shown by synthetic pairs: −2.1"),
    (interval(float("nan"), float("nan"), float("nan"), 0), r"^No gain measured"),
    (None, r"^No gain measured"),
])
def test_a_gain_is_claimed_only_with_the_whole_interval_above_zero(found, words):
    assert re.search(words, verdict(found))
    assert ("raised" in verdict(found)) == (found is not None and found.lower > 0)


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_give_a_difference_and_no_verdict(seeds):
    found = interval(0.021, 0.004, 0.038, seeds=seeds)
    assert verdict(found) == (f"No verdict, which needs 3 training seeds (here {seeds}): synthetic pairs changed the Dice by "
                              "+2.1 Dice points (95% interval +0.4 to +3.8).")
    page = report_page(summary(found), [], "demo", "now", 2.0)
    assert 'class="verdict "' in page
    assert "raised" not in page
    assert not found.decided


def test_the_headline_is_of_the_arm_that_uses_all_and_names_it():
    clear, unclear = interval(0.05, 0.03, 0.07, 150), interval(0.01, -0.01, 0.03)
    both = replace(summary(unclear), gains={"synthetic": unclear, "combined": clear})
    assert headline(both) == ("combined", clear)
    page = report_page(both, [], "demo", "now", 2.0)
    assert ">Synthetic pairs with unlabelled images raised the Dice: +5.0 Dice points (95% interval +3.0 to +7.0).<" in page
    assert "points of gain, real + synthetic + unlabelled images, 95% interval +3.0 to +7.0" in page
    assert further(both)[0].startswith("“real + synthetic images” against real images only: +1.0")
    assert "test cases: differences" not in " ".join(caveats(both))
    lowered = verdict(interval(-0.05, -0.07, -0.03), "combined")
    assert lowered.startswith("Synthetic pairs with unlabelled images lowered the Dice: −5.0")
    assert verdict(unclear, "combined").startswith("No gain shown by synthetic pairs with unlabelled images: +1.0")
    assert headline(summary(unclear)) == ("synthetic", unclear)


def test_the_page_says_that_images_are_phantoms():
    assert "Phantoms, not patients" in report_page(summary(), [], "demo", "now", 2.0, phantoms=True)
    assert "Phantoms, not patients" not in report_page(summary(), [], "busi", "now", 2.0)


@pytest.mark.parametrize("gain", [interval(0.02, 0.01, 0.03), None, interval(float("nan"), float("nan"), float("nan"))])
def test_the_page_is_whole_and_needs_no_network(gain):
    pictures = [Picture(name, b"png", f"about {name} & more") for name in ("dice", "gain", "cases", "pairs", "loss")]
    page = report_page(summary(gain, copies=3), pictures, "busi <b>", "2030-01-01", 2.0)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.references) == 5
    assert all(reference.startswith("data:image/png;base64,") for reference in checker.references)
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)
    assert "busi <b>" in checker.text
    assert "<odd>" in checker.text
    for words in (verdict(gain), "0.610", "7.2", "80 of 160", "copy of a real lesion", "40 annotated", "300 optimizer steps",
                  "aren't anonymous"):
        assert words in checker.text
    assert "nan" not in checker.text


def test_sections_without_pictures_are_left_out():
    page = report_page(summary(), [], "demo", "now", 2.0)
    assert "<img" not in page
    assert "Synthetic pairs that were accepted" not in page


def test_caveats_come_from_the_numbers():
    weak = " ".join(caveats(summary(interval(0.02, 0.01, 0.03), missed=4, copies=3)))
    for words in ("40 test cases", "3 training seeds", "3 of 160 samples", "4 in the synthetic arm"):
        assert words in weak
    strong = " ".join(caveats(summary(interval(0.02, 0.01, 0.03, cases=200, seeds=5))))
    for words in ("test cases: differences", "training seeds: the luck", "near copies", "HD95"):
        assert words not in strong
    assert "3 training seeds" in " ".join(caveats(summary()))


def test_unknown_patients_are_a_warning_and_no_bootstrap_over_patients():
    known, unknown = summary(interval(0.02, 0.01, 0.03)), replace(summary(interval(0.02, 0.01, 0.03)), unknown_patients=30)
    page = report_page(known, [], "demo", "now", 2.0)
    assert "bootstrap over patients and seeds" in page
    assert "Warning" not in page
    page = report_page(unknown, [], "demo", "now", 2.0)
    assert "bootstrap over images and seeds" in page
    assert "over patients" not in page
    assert caveats(unknown)[0].startswith("Warning: the patients of 30 images aren")
    assert any("Warning: the patients of 30 images" in line for line in closing_lines(unknown, Path("report.html")))
    assert not any("patients" in line for line in closing_lines(known, Path("report.html")))


def test_a_report_without_a_synthetic_arm_does_not_speak_of_its_pairs():
    whole = summary()
    page = report_page(replace(whole, arms={"real": whole.arms["real"]}), [], "demo", "now", 2.0)
    assert "40 annotated training images." in page
    assert "also drew from" in report_page(whole, [], "demo", "now", 2.0)


def test_outlines_show_the_truth_in_green_and_the_prediction_in_red(cases):
    case = cases(1, 64)[0]
    wrong = np.roll(case.mask > 0, 12, axis=1)
    predictions = {"real": wrong, "synthetic": case.mask > 0}
    drawn = pixels(case_sheet([Shown(case, predictions, {"real": 0.3, "synthetic": float("nan")})]))
    red, green, blue = drawn[..., 0], drawn[..., 1], drawn[..., 2]
    top, bottom = np.split(np.arange(len(drawn)), [len(drawn) // 2])
    assert ((green - red > 80) & (green - blue > 40))[top].sum() > 50
    reds = (red - green > 80) & (red - blue > 80)
    assert reds[top].sum() > 50
    assert reds[bottom].sum() > 50


def test_the_names_of_all_arms_lie_within_the_sheet(cases):
    case = cases(1, 32)[0]
    arms = [arm for arm in arm_names() if "RATIO" not in arm]
    figure = case_sheet([Shown(case, dict.fromkeys(arms, case.mask > 0), dict.fromkeys(arms, 1.0))])
    figure.savefig(io.BytesIO(), format="png")
    assert all(axes.yaxis.label.get_window_extent().x0 >= 0 for axes in figure.axes)


def test_empty_masks_and_single_pairs_draw(cases):
    case = cases(1, 32, lesion=False)[0]
    assert pixels(case_sheet([Shown(case, {"real": np.zeros((32, 32), bool)}, {"real": float("nan")})])).std() > 0
    sheet = pixels(contact_sheet([Pair(case, case.image, case.mask)]))
    assert sheet.std() > 0


def test_plots_draw_with_undefined_and_single_values():
    gain = interval(0.01, -0.02, 0.04)
    drawn = pixels(gain_plot(np.array([0.1, -0.05, np.nan, 0.2]), gain))
    blue, orange = np.array([11, 114, 133]), np.array([232, 89, 12])
    assert (np.abs(drawn - blue).sum(2) < 10).sum() > 2 * (np.abs(drawn - orange).sum(2) < 10).sum() > 0
    assert pixels(arms_plot({"real": np.array([0.5])}, {"real": interval(0.5, 0.4, 0.6)})).std() > 0
    assert pixels(loss_plot(np.array([0.5]))).std() > 0
    assert pixels(loss_plot(np.linspace(1, 0, 100))).std() > 0


def test_classes_have_rows_and_a_key_to_their_colours():
    gain = interval(0.02, 0.01, 0.03)
    rows = {name: {"real": interval(0.4, 0.3, 0.5, 13), "synthetic": interval(0.42, 0.3, 0.5, 13), "gain": gain}
            for name in ("benign", "mal-ignant")}
    several = replace(summary(gain), by_class=rows, excluded={"real": {"dice": 5, "iou": 5, "hd95": 5, "nsd": 5}})
    page = report_page(several, [Picture("cases", b"png", "c")], "demo", "now", 2.0)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    for words in ("By class", "mal-ignant", "13 cases", "dashed", "5 times an arm rightly found none of a class"):
        assert words in checker.text
    assert f"rgb{CLASS_COLOURS[1]}" in page
    assert "By class" not in report_page(summary(gain), [], "demo", "now", 2.0)


def test_outlines_of_several_classes_have_their_colours(cases):
    case = cases(1, 64)[0]
    mask = np.zeros((64, 64), np.uint8)
    mask[8:24, 8:24], mask[36:56, 30:56] = 1, 2
    both = replace(case, mask=mask)

    def near(figure, label: int) -> int:
        return int((np.abs(pixels(figure) - np.array(CLASS_COLOURS[label - 1])).sum(2) < 40).sum())

    sheets = [case_sheet([Shown(both, {"real": mask}, {"real": 1.0})], 2), contact_sheet([Pair(both, case.image, mask)], 2)]
    for sheet in sheets:
        assert near(sheet, 1) > 50
        assert near(sheet, 2) > 50
    without_prediction = case_sheet([Shown(both, {"real": mask * 0}, {"real": 0.0})], 2)
    assert near(without_prediction, 1) < near(sheets[0], 1)
    assert near(contact_sheet([Pair(both, case.image, mask)]), 1) < 10


def test_detection_has_a_table_and_its_absence_is_a_caveat():
    real = Found(interval(0.9, 0.8, 0.95, 15), interval(0.97, 0.94, 1.0, 45), interval(-0.004, -0.01, 0.0, 45), 0.75, 0.4, 60)
    none = interval(float("nan"), float("nan"), float("nan"), 0)
    blind = Found(none, none, none, float("nan"), float("nan"), 0)
    both = replace(summary(), detection={"real": real, "synthetic": blind})
    checker = Checker()
    checker.feed(report_page(both, [], "demo", "now", 2.0))
    assert checker.open == []
    for words in ("Detection", "90%80% to 95%, 15 images", "97%94% to 100%, 45 images",
                  "−0.4−1.0 to +0.0", "75%of 60", "0.40", "IoU of at least 0.1"):
        assert words in checker.text
    assert "nan" not in checker.text
    assert decision_warning(both) == []
    cannot = decision_warning(replace(summary(), detection={"real": blind}))
    assert cannot == ["No test image is lesion-free: whether the networks find lesions in healthy images, too, can't be told."]
    loud = replace(real, specificity=interval(0.02, 0.0, 0.05, 15))
    warned = replace(summary(), detection={"real": loud, "synthetic": real})
    assert decision_warning(warned)[0].startswith(
        "Warning: a lesion is found in nearly all of the 15 lesion-free test images: real 98% (95% to 100%). ")
    for page in (report_page(warned, [], "demo", "now", 2.0), "\n".join(closing_lines(warned, Path("report.html")))):
        assert "Warning: a lesion is found in nearly all" in page
    assert "Detection" not in report_page(summary(), [], "demo", "now", 2.0)


def test_names_are_escaped():
    evil = "<script>x</script>"
    gain = interval(0.02, 0.01, 0.03)
    by_class = {name: dict.fromkeys(("real", "synthetic", "gain"), gain) for name in (evil, "b")}
    named = replace(summary(gain), by_class=by_class, by_size={evil: by_class["b"]}, quality=Quality(9, 8, 0, 1, 0, {evil: 1}))
    page = report_page(named, [Picture("cases", b"png", evil), Picture("pairs", b"png", evil)], evil, evil, 2.0)
    checker = Checker()
    checker.feed(page)
    assert "<script" not in page
    assert checker.open == []
    for words in (f"{evil}: what synthetic", f"· {evil}", f"{evil}40 cases", f"left out: {evil}", f"dashed;{evil}b"):
        assert words in checker.text


@pytest.mark.parametrize(("lower", "words"), [(0.55, "they give away who was trained on"), (0.45, "which is no proof")])
def test_what_the_pairs_give_away_is_told(lower: float, words: str) -> None:
    found = {"membership": {"auc": 0.62, "lower": lower, "upper": 0.7, "members": 40, "others": 60}}
    page = report_page(summary(), [], "busi", "now", 2.0, fidelity=found)
    assert words in page
    assert "in 62% of the cases (95% interval" in page
    assert "Who was trained on" not in report_page(summary(), [], "busi", "now", 2.0, fidelity={})
