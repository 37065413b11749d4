"""What stage `evaluate` leaves: its folder, and the delivered segmenters as a registered model."""

import json
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from meddiff.cases import Case, Pixels, digest, read_image, read_mask, write_image, write_mask
from meddiff.datasets.demo import make_phantoms
from meddiff.evaluation.figures import Pair
from meddiff.evaluation.pictures import save_pictures
from meddiff.evaluation.segmenter_card import segmenter_card
from meddiff.evaluation.summary import Summary
from meddiff.evaluation.tables import latex_tables, number_table
from meddiff.layout import Layout, replacing
from meddiff.outputs.cases import read_cases
from meddiff.outputs.pairs import list_accepted
from meddiff.outputs.samples import Records, sample_mask
from meddiff.outputs.tables import CASE_SCORES, ENSEMBLE_SCORES
from meddiff.pages import Picture
from meddiff.params import EvaluateParams
from meddiff.segmentation.decision import Bounds
from meddiff.segmentation.ensemble import Ensemble
from meddiff.services.tracking import StageRun


def write_report(layout: Layout, settings: EvaluateParams, table: pd.DataFrame, together: pd.DataFrame, summary: Summary,
                 pictures: Sequence[Picture], page: str, cases: Sequence[Case], predictions: Mapping[tuple[str, int], Pixels],
                 classes: int) -> None:
    """Swap in `reports/evaluation/`."""
    with replacing(layout.report) as folder:
        CASE_SCORES.write(folder, table, settings.own_metrics)
        ENSEMBLE_SCORES.write(folder, together, settings.own_metrics)
        (folder / "summary.json").write_text(json.dumps(summary.as_json(), indent=2, allow_nan=False) + "\n")
        number_table(summary).to_csv(folder / "tables.csv", index=False, lineterminator="\n")
        (folder / "tables.tex").write_text(latex_tables(summary, settings.tolerance), encoding="utf-8")
        save_pictures(pictures, folder / "pictures")
        for (arm, seed), masks in predictions.items():
            place = folder / "predictions" / arm / ("ensemble" if seed < 0 else str(seed))
            for case, mask in zip(cases, masks, strict=True):
                write_mask(place / f"{case.id}.png", mask, classes)
        (folder / "report.html").write_text(page)


def hand_over(layout: Layout, tracker: StageRun, ensemble: Ensemble, test: Sequence[Case], delivered: Summary, summary: Summary,
              phantoms: bool) -> None:
    """Register the delivered segmenters with their card, their test figures and where they come from.

    Args:
        ensemble: the segmenters of the chosen arm.
        test: the cases of the figures.
        delivered, summary, phantoms: see `segmenter_card`.
    """
    recipe, learned = ensemble.recipe, [*read_cases(layout.cases("train")), *read_cases(layout.cases("val"))]
    dice = delivered.arms[recipe.arm]["dice"]
    validation = float(np.mean([member.validation_dice for member in ensemble.members]))
    decided = any(member.bounds != Bounds() for member in ensemble.members)
    card = segmenter_card(delivered, summary, ensemble.seeds, recipe.classes, recipe.size, recipe.fit, validation, decided,
                          phantoms)
    with replacing(layout.work / "segmenter") as folder:
        shutil.copytree(layout.segmenters / recipe.arm, folder, dirs_exist_ok=True)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_image(folder / "example.png", make_phantoms(1, True, recipe.size, "mixed", 0)[0].image)  # no patient's
        tags = {"arm": recipe.arm, "seeds": ", ".join(map(str, ensemble.seeds)), "segmenters": ensemble.digest,
                "data": digest(learned), "test": digest(test), "dice": f"{dice.mean:.4f}"}
        tracker.segmenter(folder, (folder / "example.png").read_bytes(), tags)
    shutil.rmtree(layout.work / "segmenter")
    tracker.file(layout.report / ENSEMBLE_SCORES.name)
    figures = {"segmenter_dice": dice.mean, "segmenter_dice_lower": dice.lower, "segmenter_dice_upper": dice.upper, "leaks": 0.0}
    tracker.headline({name: value for name, value in figures.items() if np.isfinite(value)})


def draw_pairs(layout: Layout, records: Records, settings: EvaluateParams) -> list[Pair]:
    """At random from the accepted pairs; without those whose background isn't there any more."""
    accepted, background = list_accepted(layout), dict(zip(records.samples["id"], records.samples["background"], strict=True))
    drawn = [accepted[i] for i in np.random.default_rng(settings.seed).permutation(len(accepted))[:settings.pictures]]
    return [Pair(files.read(), read_image(place), read_mask(sample_mask(layout.synthetic, files.group, files.id)))
            for files in drawn if (place := layout.backgrounds / "images" / f"{background[files.id]}.png").is_file()]
