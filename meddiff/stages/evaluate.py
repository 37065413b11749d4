"""Stage `evaluate`: that no test case has leaked, every segmenter on the test cases, the gain with its interval, the report."""

import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from meddiff.cases import DEEP, Case, Frame, Pixels, read_cases, read_image, read_mask
from meddiff.datasets.leakage import Used, look, photographed, refuse_leaks, refuse_photographed
from meddiff.errors import MeddiffError
from meddiff.evaluation.arms import main_arms
from meddiff.evaluation.bootstrap import nearer_p
from meddiff.evaluation.figures import Pair, Shown, arms_plot, case_sheet, contact_sheet, gain_plot, loss_plot
from meddiff.evaluation.page import further, report_page, verdict
from meddiff.evaluation.summary import (
    Quality,
    Summary,
    assess,
    mean_over_classes,
    score_matrix,
    size_strata,
    summarise,
    with_lesion,
)
from meddiff.layout import Layout, replacing
from meddiff.outputs.pairs import KINDS, list_accepted
from meddiff.outputs.samples import Records, read_records
from meddiff.pages import Picture
from meddiff.params import EvaluateParams, Params
from meddiff.params.arms import BASELINE, TREATED, arm_of
from meddiff.pretrained import FOUNDATION, photographs
from meddiff.progress import bar, told
from meddiff.segmentation.metrics import case_scores, detect
from meddiff.segmentation.segmenter import Segmenter, within_frame
from meddiff.services.tracking import StageRun
from meddiff.stages import use_machine

SIDES = ("top", "left", "height", "width")
Predictions = dict[tuple[str, int], Pixels]    # `[N, S, S]` of 0 to K by arm and seed


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Score `models/segmenters/` on `data/test/` into `reports/evaluation/`, and print the result.

    Raises:
        MeddiffError: a test case has been used before, or test cases, segmenters or tables of earlier stages are missing.
    """
    params = use_machine(params)
    device, settings, classes = params.compute.device, params.evaluate, params.prepare.classes
    cases, training = read_cases(layout.cases("test")), _training(layout)
    if not cases:
        raise MeddiffError(layout.cases("test"), "the test needs at least one case", "Raise prepare.test_fraction")
    records = read_records(layout.synthetic, layout.filtered)
    _refuse_leaks(layout, params, cases, records, set(training["arm"]))
    tracker.dataset(pd.DataFrame({"id": [c.id for c in cases], "group": [c.group for c in cases]}), "test", "testing")
    predictions = _predict(layout, training, cases, device)
    table = _score(predictions, cases, settings.tolerance, classes)
    summary = summarise(table, training, _quality(records), settings)
    scored = mean_over_classes(with_lesion(table))
    pictures = _pictures(layout, scored, summary, cases, predictions, records, settings, len(classes))
    with replacing(layout.report) as folder:
        table.to_csv(folder / "per_case.csv", index=False)
        (folder / "summary.json").write_text(json.dumps(summary.as_json(), indent=2, allow_nan=False) + "\n")
        (folder / "pictures").mkdir()
        for picture in pictures:
            (folder / "pictures" / f"{picture.name}.png").write_bytes(picture.png)
        title = f"{params.prepare.dataset}, {_images(layout, cases)}"
        (folder / "report.html").write_text(report_page(summary, pictures, title, date.today().isoformat(), settings.tolerance))
    tracker.headline(summary.headlines() | _memorisation(layout.filtered / "fidelity.json"))
    for name in ("report.html", "summary.json", "per_case.csv", "pictures"):
        tracker.headline_file(layout.report / name)
    print("\n".join(closing_lines(summary, layout.report / "report.html")))


def closing_lines(summary: Summary, page: Path) -> list[str]:
    """What the stage tells at its end: Dice of each arm, the gain, what further arms gain, and where the report lies."""
    lines = []
    for arm, scores in summary.arms.items():
        dice = scores["dice"]
        lines.append(f"Dice, {arm} arm: {dice.mean:.3f} ({dice.confidence:.0%} interval {dice.lower:.3f} to {dice.upper:.3f}; "
                     f"{dice.cases} test cases, {dice.seeds} seeds)")
    return [*lines, verdict(summary.gain), *further(summary), f"Report: {page}"]


def _images(layout: Layout, cases: Sequence[Case]) -> str:
    """The test images in words: size, and what was done to bring them to square RGB of 8 bits."""
    side, modes = len(cases[0].image), set(pd.read_csv(layout.cases("test") / "cases.csv").get("mode", pd.Series(dtype=str)))
    words = [f"{side} × {side} pixels"]
    if any(case.frame and (case.frame.height, case.frame.width) != (side, side) for case in cases):
        words.append("padded to squares (what is predicted on the bars doesn't count)")
    if all((case.image == case.image[:, :, :1]).all() for case in cases):
        words.append("gray in three equal channels")
    return ", ".join([*words, *(["brought from more than 8 bits to 8"] if modes & set(DEEP) else [])])


def _refuse_leaks(layout: Layout, params: Params, cases: Sequence[Case], records: Records, arms: Collection[str]) -> None:
    """Stop before anything is scored if a test case has been used by an earlier stage, or by the foundation's training."""
    refuse_leaks(cases, _used(layout, records, arms), params.prepare.duplicate_bits)
    source, raw = params.foundation.source, _table(layout.cases("test") / "cases.csv", "prepare")
    hashes = dict(zip(raw["id"], raw.get("raw_sha256", pd.Series("", raw.index)), strict=True))
    refuse_photographed(photographed(hashes, photographs(FOUNDATION if source == "embedded" else Path(source))), source)


def _used(layout: Layout, records: Records, arms: Collection[str]) -> Iterator[Used]:
    """Every image that the chain has used, and the background of every sample, accepted or not."""
    frames = {}
    for folder, name in ((layout.cases("train"), "cases"), (layout.cases("val"), "cases"), (layout.normal, "backgrounds")):
        for row in _table(folder / f"{name}.csv", "prepare").to_dict("records"):
            frames[row["id"]] = Frame(*(int(row[side]) for side in SIDES)) if row.get("top") else None
            seen = look(read_image(folder / "images" / f"{row['id']}.png"), frames[row["id"]])
            yield Used(f"data/{folder.name}", row["id"], row["id"], row["group"], seen)
    origins = {}
    for row in _table(layout.backgrounds / "backgrounds.csv", "backgrounds").to_dict("records"):
        origins[row["id"]] = origin = row["source"].partition(":")[2] or row["id"]
        seen = look(read_image(layout.backgrounds / "images" / f"{row['id']}.png"), frames.get(origin))
        yield Used("backgrounds", row["id"], origin, row.get("group", ""), seen, painted=origin != row["id"])
    learned = set(records.decisions.loc[records.decisions["verdict"] == "accepted", "id"])
    for kind in {kind for arm in arms for kind in arm_of(arm).adds}:
        learned.update(pair.id for pair in KINDS[kind](layout))
    for id, batch, background in records.samples[["id", "batch", "background"]].itertuples(index=False):
        origin = origins.get(background, background.removesuffix("_removed").removesuffix("_site"))
        image = layout.synthetic / batch / "images" / f"{id}.png"
        yield Used(f"synthetic/{batch}", id, origin, look=look(read_image(image), frames.get(origin)) if id in learned else None,
                   painted=True)


def _table(path: Path, stage: str) -> pd.DataFrame:
    """A table of text, nothing in the place of what is missing."""
    if not path.is_file():
        raise MeddiffError(path, "the search for leaks needs this table", f"Run `dvc repro {stage}`")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _training(layout: Layout) -> pd.DataFrame:
    path = layout.segmenters / "validation.csv"
    if not path.is_file():
        raise MeddiffError(path, "the table of trained segmenters must be there", "Run `dvc repro segment`")
    return pd.read_csv(path)


def _predict(layout: Layout, training: pd.DataFrame, cases: Sequence[Case], device: str) -> Predictions:
    images, found = np.stack([case.image for case in cases]), Predictions()
    with bar("evaluate") as report:
        for arm, seed in zip(training["arm"], training["seed"], strict=True):
            segmented = Segmenter.load(layout.segmenters / arm / str(seed), device).segment(images)
            found[arm, int(seed)] = np.stack([within_frame(one, case) for one, case in zip(segmented, cases, strict=True)])
            report(len(found), len(training), {})
    return found


def _score(predictions: Predictions, cases: Sequence[Case], tolerance: float, classes: Sequence[str]) -> pd.DataFrame:
    """`per_case.csv`: one row a case, class, arm and seed. Counts and `lesion_area` are the class's, `stratum` is the case's."""
    masks = [np.zeros(case.image.shape[:2], np.uint8) if case.mask is None else case.mask for case in cases]
    strata = size_strata([float((mask > 0).mean()) for mask in masks])
    rows = []
    for (arm, seed), predicted in told("score", len(predictions), predictions.items()):
        for case, mask, stratum, prediction in zip(cases, masks, strata, predicted, strict=True):
            for label, name in enumerate(classes, start=1):
                scores = case_scores(prediction == label, mask == label, tolerance, case.id)
                rows.append({"case": case.id, "group": case.group, "class": name, "arm": arm, "seed": seed,
                             **asdict(scores), **asdict(detect(prediction == label, mask == label)),
                             "lesion_area": float((mask == label).mean()), "stratum": stratum})
    return pd.DataFrame(rows)


def _quality(records: Records) -> Quality:
    return assess(records.decisions, list(records.samples["batch"]), sum(bool(reasons) for reasons in records.reasons.values()))


def _memorisation(path: Path) -> dict[str, float]:
    """How near the accepted lesions lie to the training lesions; nothing where `filter` couldn't measure it."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    accepted, held_back = found.get("sets", {}).get("accepted", {}), found.get("n_reference", 0)
    copies, n = accepted.get("copies") or {}, accepted.get("n", 0)
    if copies.get("share") is None or not n or not held_back:
        return {}
    return {"memorised": copies["share"], "memorised_expected": copies["expected_share"],
            "memorised_p": nearer_p(round(copies["share"] * n), n, held_back)}


def _pictures(layout: Layout, table: pd.DataFrame, summary: Summary, cases: Sequence[Case], predictions: Predictions,
              records: Records, settings: EvaluateParams, classes: int) -> list[Picture]:
    """Of the cases that `table` names."""
    scored = set(table["case"])
    at = [i for i, case in enumerate(cases) if case.id in scored]
    cases, predictions = [cases[i] for i in at], {key: masks[at] for key, masks in predictions.items()}
    dice = {arm: score_matrix(table, arm, "dice") for arm in summary.arms}
    means = {arm: np.array([_mean(row) for row in scores]) for arm, scores in dice.items()}
    found = [_picture("dice", arms_plot(means, {arm: scores["dice"] for arm, scores in summary.arms.items()}),
                      "Mean Dice of each arm: the bar is its interval, a stroke is one training seed. The arms share test cases, "
                      "so that bars may overlap although the paired gain is clear.")]
    if summary.gain and summary.gain.cases:
        gains = np.array([_mean(column) for column in (dice[TREATED] - dice[BASELINE]).T])
        found.append(_picture("gain", gain_plot(gains, summary.gain),
                              "Dice of each test case with synthetic data less that without, mean over seeds."))
    shown = _chosen(cases, predictions, {arm: dice[arm] for arm in main_arms(list(dice))}, settings.pictures)
    found.append(_picture("cases", case_sheet(shown, classes),
                          "Evenly spaced from the best to the worst test case by mean Dice; predictions of the first seed:"))
    if pairs := _pairs(layout, records, settings):
        found.append(_picture("pairs", contact_sheet(pairs, classes),
                              "Drawn at random from the accepted pairs, not picked by eye."))
    path = layout.generator / "loss.csv"
    if path.is_file() and len(losses := pd.read_csv(path)["loss"].to_numpy(np.float64)):
        found.append(_picture("loss", loss_plot(losses), "Training loss of the generator."))
    return found


def _chosen(cases: Sequence[Case], predictions: Predictions, dice: dict[str, NDArray[np.float64]], number: int) -> list[Shown]:
    """Test cases evenly spaced from the best to the worst, by mean Dice over arms and seeds."""
    score = np.array([_mean(column) for column in np.concatenate(list(dice.values())).T])
    order = np.argsort(-score, kind="stable")[:max(1, int(np.isfinite(score).sum()))]  # NaN sorts to the end
    at = np.unique(np.linspace(0, len(order) - 1, number).round().astype(int))
    first = {arm: min(seed for name, seed in predictions if name == arm) for arm in dice}
    return [Shown(cases[i], {arm: predictions[arm, seed][i] for arm, seed in first.items()},
                  {arm: float(scores[0, i]) for arm, scores in dice.items()}) for i in order[at]]


def _pairs(layout: Layout, records: Records, settings: EvaluateParams) -> list[Pair]:
    accepted = list_accepted(layout)
    picked = np.random.default_rng(settings.seed).permutation(len(accepted))[:settings.pictures]
    background = dict(zip(records.samples["id"], records.samples["background"], strict=True))
    pairs = []
    for case in (accepted[i].read() for i in picked):
        path = layout.backgrounds / "images" / f"{background[case.id]}.png"
        if path.is_file():
            pairs.append(Pair(case, read_image(path), read_mask(layout.synthetic / case.group / "masks" / f"{case.id}.png")))
    return pairs


def _picture(name: str, figure: Figure, caption: str) -> Picture:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Picture(name, stream.getvalue(), caption)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")
