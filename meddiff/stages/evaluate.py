"""Stage `evaluate`: that no test case has leaked, every segmenter on the test cases, the gain with its interval, the report."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from meddiff.cases import digest
from meddiff.datasets.leakage import photographed, refuse_leaks, refuse_photographed
from meddiff.environment import use_machine
from meddiff.errors import MeddiffError
from meddiff.evaluation.advice import advise
from meddiff.evaluation.arms import best_arm
from meddiff.evaluation.bootstrap import memorisation
from meddiff.evaluation.closing import closing_lines, describe_images, describe_look
from meddiff.evaluation.page import report_page
from meddiff.evaluation.pictures import make_pictures
from meddiff.evaluation.quality import assess
from meddiff.evaluation.summary import mean_over_classes, size_strata, summarise, with_lesion
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.samples import read_records
from meddiff.outputs.tables import CASE_SCORES, CASES, VALIDATION, VALIDATION_CASES, read_losses
from meddiff.outputs.used import count_unknown, list_used
from meddiff.params import Params
from meddiff.pretrained import FOUNDATION, photographs
from meddiff.progress import bar, with_progress
from meddiff.segmentation.ensemble import Ensemble
from meddiff.segmentation.metrics import load_metric
from meddiff.segmentation.scoring import predict_cases, reference_of, score_predictions
from meddiff.segmentation.segmenter import Segmenter
from meddiff.services.tracking import StageRun
from meddiff.stages.reporting import draw_pairs, hand_over, write_report


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
    looks, rate, chosen = tracker.look(digest(cases)), load_metric(settings.metric), best_arm(training) or str(training["arm"][0])
    ensemble = Ensemble.load(layout.segmenters / chosen, device)
    own = {} if rate is None else dict.fromkeys(settings.own_metrics, rate)
    predictions = {(arm, seed): predict_cases(Segmenter.load(layout.segmenters / arm / str(seed), device), cases)
                   for arm, seed in with_progress("evaluate", len(training), training[["arm", "seed"]].itertuples(index=False))}
    strata = size_strata([float((reference_of(case) > 0).mean()) for case in cases])
    with bar("score") as report:
        table = score_predictions(predictions, cases, strata, settings.tolerance, classes, report, own)
    joint = {(chosen, -1): predict_cases(ensemble, cases)}
    together = score_predictions(joint, cases, strata, settings.tolerance, classes, own=own)
    quality = assess(records.decisions, list(records.samples["batch"]), records.quarantined)
    unknown, pairs = count_unknown(layout, rows), draw_pairs(layout, records, settings)
    summary = summarise(table, training, quality, settings, unknown)
    summary = replace(summary, advice=advise(VALIDATION_CASES.read(layout.segmenters), training, summary.arms, settings))
    delivered = summarise(together, training[training["arm"] == chosen], quality, settings, unknown)
    masks = {key: findings.decided for key, findings in (predictions | joint).items()}
    scored, losses = mean_over_classes(with_lesion(table)), read_losses(layout.generator)
    pictures = make_pictures(scored, summary, cases, masks, pairs, losses, settings.pictures, len(classes))
    fidelity = json.loads(file.read_text()) if (file := layout.filtered / "fidelity.json").is_file() else {}
    phantoms, title = dataset == "demo", f"{dataset}, {describe_images(cases, {row.mode for row in rows})}"
    page = report_page(summary, pictures, title, describe_look(looks, tracker.about()), settings.tolerance, phantoms, fidelity)
    write_report(layout, settings, table, together, summary, pictures, page, cases, masks, len(classes))
    tracker.headline(summary.headlines() | memorisation(fidelity))
    for name in ("report.html", "summary.json", CASE_SCORES.name, "pictures"):
        tracker.headline_file(layout.report / name)
    hand_over(layout, tracker, ensemble, cases, delivered, summary, phantoms)
    print("\n".join(closing_lines(summary, layout.report / "report.html")))
    print(f"Other pictures, by the best arm on validation: meddiff predict DIR --model {layout.segmenters / chosen} --out OUT")
