"""The benchmark's page, for people: gains with their tests, arms, cases, fidelity, cost and limits, in one HTML file."""

import html
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from meddiff.benchmark_figures import named
from meddiff.page import Picture, counted, document, figure, listed, points, section, table
from meddiff.report import NAMES, PRIVACY
from meddiff.significance import AVERAGE, RIVALS

ALPHA = 0.05
LEAST_SEEDS = 3  # for a claim: fewer tell too little of the luck of annotated cases and training
SETS = {"training": "annotated real lesions", "generated": "generated", "accepted": "accepted",
        "corroded": "accepted, corroded masks"}
FIDELITY = {"kid.lesion.mean": "KID, lesion", "kid.image.mean": "KID, image", "support.lesion.density": "density",
            "support.lesion.coverage": "coverage", "copies.share": "share of copies", "seam": "seam"}


def decision(row: Any) -> str:
    """`gain`, `loss`, `undecided` or `few` seeds: claimed only where the interval and the corrected test agree."""
    if row.seeds < LEAST_SEEDS:
        return "few"
    if row.p_holm < ALPHA and row.lower > 0:
        return "gain"
    return "loss" if row.p_holm < ALPHA and row.upper < 0 else "undecided"


def interval(row: Any) -> str:
    """A gain in points with its interval."""
    return "–" if math.isnan(row.mean) else f"{points(row.mean)} ({points(row.lower)} to {points(row.upper)})"


def verdict(gains: pd.DataFrame, budget: int, rivals: Sequence[str] = ("real", *RIVALS)) -> list[str]:
    """The result in sentences: over each rival in turn, the average over the datasets last."""
    told = []
    for against in rivals:
        rows = _rows(gains, budget, "synthetic", against)
        for row in rows:
            word = {"gain": "raised", "loss": "lowered"}.get(found := decision(row), "")
            what = named(against)
            numbers = f"{interval(row)} Dice points, p = {row.p_holm:.3f}"
            who = "On average over the datasets" if row.dataset == AVERAGE else row.dataset
            told.append(f"{who}: synthetic pairs {word} the Dice against {what}: {numbers}." if word else
                        f"{who}: too few seeds ({row.seeds}) to tell a difference from {what}: {numbers}." if found == "few" else
                        f"{who}: no difference shown against {what}: {numbers}.")
    return told or [f"No gain measured at {budget} annotated images: that needs the arms `real` and `synthetic`."]


def render(scores: pd.DataFrame, gains: pd.DataFrame, cells: pd.DataFrame, pictures: Sequence[Picture], facts: dict[str, Any],
           missing: Sequence[str]) -> str:
    """Compose the page.

    Args:
        scores, gains: see `significance`.
        cells: one row a cell: dataset, budget, seed, recipe, samples, accepted, seconds, stages_run, peak_memory_mb,
            numbers of fidelity.
        pictures: `budgets` and `arms` of `benchmark_figures`, and DATASET-cases, DATASET-pairs.
        facts: size [pixels], budget (of the verdict), seeds, steps, network, datasets, device, threads, extractor, tolerance
            [pixels], made (date), command.
        missing: cells that failed or aren't finished, a line each.

    Returns:
        A complete HTML document without references to other files or hosts.
    """
    budget = facts["budget"]
    shown = {picture.name: figure(picture) for picture in pictures}
    whole = [decision(row) for row in _rows(gains, budget, "synthetic", "real")]
    tone = " better" if whole and set(whole) == {"gain"} else " worse" if "loss" in whole else ""
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in verdict(gains, budget, ["real"])) + _rivals(gains, budget)
    cases = "".join(body for name, body in shown.items() if name.endswith("-cases"))
    key = '<p class="note"><i class="truth"></i>reference<i class="prediction"></i>prediction</p>' if cases else ""
    body = f"""<h1>What synthetic images gain: {html.escape(", ".join(facts["datasets"]))}</h1>
<p class="kicker">{html.escape(_subtitle(facts))}</p>
<section class="verdict{tone}"><h2>{budget} annotated images</h2>{lines}{_missing(missing)}</section>
{section("Gain and number of annotated images", shown.get("budgets", ""))}
{section("All arms", shown.get("arms", "") + _arms(scores, gains, budget, facts))}
{section("All differences", _gains(gains))}
{section("Test cases, from best to worst", cases + key)}
{section("Synthetic pairs that were accepted", "".join(body for name, body in shown.items() if name.endswith("-pairs")))}
{section("How near the synthetic lesions are to real ones", _fidelity(cells, budget, facts))}
{section("What it cost", _cost(cells))}
{section("How far to trust this", listed(limits(facts)))}
{section("Privacy", PRIVACY)}"""
    return document("What synthetic images gain", body)


def limits(facts: dict[str, Any]) -> list[str]:
    """What limits the result, one sentence each."""
    few = len(facts["seeds"])
    return [f"{counted(few, 'seed')}, each with its own annotated cases, generator and segmenters"
            + (": with fewer than five the interval is rough." if few < 5 else "."),
            f"Images of {facts['size']} pixels and segmenters of {facts['steps']} steps ({facts['network']}): larger images or "
            "longer training may give other gains.",
            "One test part for each dataset: other scanners, hospitals and kinds of lesion aren't covered.",
            "Arms with added pairs see fewer real images in each batch; all arms have the same number of steps, and the best "
            "weights are chosen on validation cases alone.",
            "p-values are corrected over datasets, not over arms or budgets: of many rows some are small by chance.",
            "Energy wasn't measured."]


def _rows(gains: pd.DataFrame, budget: int, arm: str, against: str) -> list[Any]:
    if gains.empty:
        return []
    part = gains[(gains["budget"] == budget) & (gains["arm"] == arm) & (gains["against"] == against)]
    return [row for row in part.itertuples() if not math.isnan(row.mean)]


def _rivals(gains: pd.DataFrame, budget: int) -> str:
    """What the synthetic arm gains over each rival, datasets side by side."""
    datasets = list(dict.fromkeys(row.dataset for against in RIVALS for row in _rows(gains, budget, "synthetic", against)))
    rows = []
    for against in RIVALS:
        found = {row.dataset: row for row in _rows(gains, budget, "synthetic", against)}
        if found:
            rows.append([html.escape(named(against)), *(_against(found[name]) if name in found else "–" for name in datasets)])
    return table(["Dice points of synthetic pairs over", *datasets], rows) if rows else ""


def _against(row: Any) -> str:
    word = {"gain": "better", "loss": "worse", "few": "too few seeds to tell"}.get(decision(row), "no difference shown")
    return f"{_points(row)}<small>{word}, p = {row.p_holm:.3f}</small>"


def _points(row: Any) -> str:
    """A gain in points, its interval beneath."""
    return "–" if math.isnan(row.mean) else f"{points(row.mean)}<small>{points(row.lower)} to {points(row.upper)}</small>"


def _subtitle(facts: dict[str, Any]) -> str:
    return (f"{facts['size']} pixels · {facts['network']}, {facts['steps']} steps in every arm · "
            f"seeds {', '.join(map(str, facts['seeds']))} · {facts['device']}, {counted(facts['threads'], 'thread')} · "
            f"{facts['made']} · {facts['command']}")


def _missing(missing: Sequence[str]) -> str:
    what = f"{counted(len(missing), 'cell')} {'is' if len(missing) == 1 else 'are'} missing"
    head = f"<summary><b>Not everything is in: {what}.</b></summary>"
    return f"<details{' open' if len(missing) < 4 else ''}>{head}{listed(missing)}</details>" if missing else ""


def _arms(scores: pd.DataFrame, gains: pd.DataFrame, budget: int, facts: dict[str, Any]) -> str:
    found = ""
    for dataset, own in scores[scores["budget"] == budget].groupby("dataset", sort=False):
        rows = []
        for arm, part in own.groupby("arm", sort=False):
            by = part.set_index("metric")
            cells = [_score(by.loc[metric], metric) for metric in NAMES]
            over = [row for row in _rows(gains, budget, str(arm), "real") if row.dataset == dataset]
            rows.append([html.escape(named(str(arm))), *cells, _points(over[0]) if over else "–"])
        found += f"<h3>{html.escape(str(dataset))}</h3>" + table(["trained on", *NAMES.values(), "over real only [points]"], rows)
        found += f'<p class="note">{own["cases"].iloc[0]} test cases with a lesion, {_seeds(own)}.</p>'
    return found + f'<p class="note">NSD: share of the outlines within {facts["tolerance"]:g} pixels of each other.</p>'


def _seeds(own: pd.DataFrame) -> str:
    """How many seeds the arms of one dataset have, told apart where not all are finished."""
    by_arm = own.groupby("arm", sort=False)["seeds"].first()
    most = by_arm.value_counts().index[0]
    others = [f"{html.escape(named(str(arm)))}: {n}" for arm, n in by_arm.items() if n != most]
    apart = f" (but {', '.join(others)}; differences are over the seeds that both have)" if others else ""
    return counted(int(most), "seed") + apart


def _score(row: "pd.Series[Any]", metric: str) -> str:
    if math.isnan(row["mean"]):
        return "–"
    digits = 1 if metric == "hd95" else 3
    return f"{row['mean']:.{digits}f}<small>{row['lower']:.{digits}f} to {row['upper']:.{digits}f}</small>"


def _gains(gains: pd.DataFrame) -> str:
    rows = [[html.escape(str(row.dataset)), str(row.budget), html.escape(named(row.arm)), html.escape(named(row.against)),
             _points(row), f"{row.p:.3f}", f"{row.p_holm:.3f}", str(row.seeds)] for row in gains.itertuples()]
    note = ('<p class="note">p: two-sided, from the bootstrap over patients and seeds. Holm: corrected over the datasets of the '
            "same budget, arm and rival; `average` is one test of its own.</p>")
    return table(["dataset", "annotated", "arm", "against", "points", "p", "Holm", "seeds"], rows) + note if rows else ""


def _fidelity(cells: pd.DataFrame, budget: int, facts: dict[str, Any]) -> str:
    part, rows = cells[cells["budget"] == budget], []
    for (dataset, recipe), own in part.groupby(["dataset", "recipe"], sort=False):
        for group, words in SETS.items():
            names = [f"sets.{group}.{name}" for name in FIDELITY]
            if any(name in own and own[name].notna().any() for name in names):
                values = [own[name].mean() if name in own else math.nan for name in names]
                rows.append([f"{html.escape(str(dataset))}, {html.escape(str(recipe))}", words,
                             *("–" if math.isnan(value) else f"{value:.3g}" for value in values)])
    note = ('<p class="note">Means over seeds. Against held-back real images (validation part); features: '
            f'{html.escape(str(facts["extractor"]))}. KID: 0 is the same distribution. Density and coverage: about 1 and near 1 '
            "are best. Copies: share nearer to a training lesion than held-back lesions are.</p>")
    return table(["", "set", *FIDELITY.values()], rows) + note if rows else ""


def _cost(cells: pd.DataFrame) -> str:
    rows = [[f"{html.escape(str(dataset))}, {html.escape(str(recipe))}", str(len(own)), f"{own['seconds'].mean() / 60:.1f}",
             f"{own['stages_run'].mean():.1f}",
             f"{own['accepted'].sum() / own['samples'].sum():.0%} of {own['samples'].sum()}"]
            for (dataset, recipe), own in cells.groupby(["dataset", "recipe"], sort=False)]
    note = (f'<p class="note">{cells["seconds"].sum() / 3600:.1f} hours of cells in all (several may have run at once); greatest '
            f'memory of a process {cells["peak_memory_mb"].max() / 1000:.1f} GB. Stages that another cell '
            "or an earlier run had done already were taken from there and cost nothing.</p>")
    return table(["", "cells", "minutes a cell", "stages run", "samples accepted"], rows) + note
