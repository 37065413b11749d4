"""Stage `evaluate`: that no test case has leaked, every segmenter on the test cases, the gain with its interval, the report."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from meddiff.cases import read_image, read_mask
from meddiff.datasets.leakage import photographed, refuse_leaks, refuse_photographed
from meddiff.environment import use_machine
from meddiff.errors import MeddiffError
from meddiff.evaluation.advice import advise
from meddiff.evaluation.bootstrap import memorisation
from meddiff.evaluation.closing import closing_lines, describe_images
from meddiff.evaluation.figures import Pair
from meddiff.evaluation.page import report_page
from meddiff.evaluation.pictures import make_pictures, save_pictures
from meddiff.evaluation.summary import assess, mean_over_classes, size_strata, summarise, with_lesion
from meddiff.layout import Layout, replacing
from meddiff.outputs.cases import read_cases
from meddiff.outputs.pairs import list_accepted
from meddiff.outputs.samples import Records, read_records
from meddiff.outputs.tables import CASE_SCORES, CASES, VALIDATION, VALIDATION_CASES, read_losses
from meddiff.outputs.used import count_unknown, list_used
from meddiff.params import EvaluateParams, Params
from meddiff.pretrained import FOUNDATION, photographs
from meddiff.progress import bar, with_progress
from meddiff.segmentation.scoring import predict_cases, reference_of, score_predictions
from meddiff.segmentation.segmenter import Segmenter
from meddiff.services.tracking import StageRun


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Score `models/segmenters/` on `data/test/` into `reports/evaluation/`, and print the result.

    Raises:
        MeddiffError: a test case has been used before, or test cases, segmenters or tables of earlier stages are missing.
    """
    params = use_machine(params)
    device, settings, classes, test = params.compute.device, params.evaluate, params.prepare.classes, layout.cases("test")
    cases, rows, training = read_cases(test), CASES.rows(test), VALIDATION.read(layout.segmenters)
    if not cases:
        raise MeddiffError(test, "the test needs at least one case", "Raise prepare.test_fraction")
    records, source, dataset = read_records(layout.synthetic, layout.filtered), params.foundation.source, params.prepare.dataset
    refuse_leaks(cases, list_used(layout, records, set(training["arm"])), params.prepare.duplicate_bits)
    known = photographs(FOUNDATION if source == "embedded" else Path(source))
    refuse_photographed(photographed({row.id: row.raw_sha256 for row in rows}, known), source)
    tracker.dataset(pd.DataFrame({"id": [c.id for c in cases], "group": [c.group for c in cases]}), "test", "testing")
    predictions = {(arm, seed): predict_cases(Segmenter.load(layout.segmenters / arm / str(seed), device), cases)
                   for arm, seed in with_progress("evaluate", len(training), training[["arm", "seed"]].itertuples(index=False))}
    strata = size_strata([float((reference_of(case) > 0).mean()) for case in cases])
    with bar("score") as report:
        table = score_predictions(predictions, cases, strata, settings.tolerance, classes, report)
    quality = assess(records.decisions, list(records.samples["batch"]), records.quarantined)
    summary, pairs = summarise(table, training, quality, settings, count_unknown(layout, rows)), _pairs(layout, records, settings)
    summary = replace(summary, advice=advise(VALIDATION_CASES.read(layout.segmenters), training, summary.arms, settings))
    scored, masks = mean_over_classes(with_lesion(table)), {key: findings.decided for key, findings in predictions.items()}
    pictures = make_pictures(scored, summary, cases, masks, pairs, read_losses(layout.generator), settings.pictures, len(classes))
    title, today = f"{dataset}, {describe_images(cases, {row.mode for row in rows})}", date.today().isoformat()
    with replacing(layout.report) as folder:
        CASE_SCORES.write(folder, table)
        (folder / "summary.json").write_text(json.dumps(summary.as_json(), indent=2, allow_nan=False) + "\n")
        save_pictures(pictures, folder / "pictures")
        (folder / "report.html").write_text(report_page(summary, pictures, title, today, settings.tolerance, dataset == "demo"))
    fidelity = layout.filtered / "fidelity.json"
    tracker.headline(summary.headlines() | (memorisation(json.loads(fidelity.read_text())) if fidelity.is_file() else {}))
    for name in ("report.html", "summary.json", CASE_SCORES.name, "pictures"):
        tracker.headline_file(layout.report / name)
    print("\n".join(closing_lines(summary, layout.report / "report.html")))


def _pairs(layout: Layout, records: Records, settings: EvaluateParams) -> list[Pair]:
    """Drawn at random from the accepted pairs; without those whose background isn't there any more."""
    accepted, background = list_accepted(layout), dict(zip(records.samples["id"], records.samples["background"], strict=True))
    drawn = [accepted[i] for i in np.random.default_rng(settings.seed).permutation(len(accepted))[:settings.pictures]]
    return [Pair(files.read(), read_image(place), read_mask(layout.synthetic / files.group / "masks" / f"{files.id}.png"))
            for files in drawn if (place := layout.backgrounds / "images" / f"{background[files.id]}.png").is_file()]
