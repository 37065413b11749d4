"""Stage `filter`: which synthetic samples are accepted, which batches are quarantined, and the corroded masks."""

import json
import time
from dataclasses import asdict
from functools import partial

from meddiff.cases import mask_png, read_mask
from meddiff.environment import use_machine
from meddiff.filtering.checks import check_batches, describe_batches
from meddiff.filtering.corrosion import corrode_samples
from meddiff.filtering.decisions import count_decisions, decide, settle
from meddiff.filtering.features import load_extractor
from meddiff.filtering.fidelity import compare_samples
from meddiff.filtering.measuring import greatest_components, measure_samples
from meddiff.filtering.page import make_tiles, quality_page
from meddiff.filtering.reviewing import count_reviews, heed_reviews
from meddiff.filtering.similarity import measure_real
from meddiff.layout import Layout, replacing
from meddiff.outputs.cases import read_cases
from meddiff.outputs.reviews import current_reviews
from meddiff.outputs.samples import final_mask, read_mode, read_pair, read_pairs, read_samples, write_masks
from meddiff.outputs.tables import CORROSION, DECISIONS
from meddiff.params import Params
from meddiff.progress import bar, tell
from meddiff.segmentation.segmenter import Segmenter
from meddiff.services.tracking import StageRun


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Score, decide, check and corrode; write `filtered/` and `reports/quality/`.

    Raises:
        MeddiffError: a batch, one of its files, the training cases or the inspector are missing, the extractor doesn't load, or
            the decisions of people can't be read.
    """
    params = use_machine(params)
    settings, device, begun, read = params.filter, params.compute.device, time.monotonic(), partial(read_pair, layout.synthetic)
    cases, samples = read_cases(layout.cases("train")), read_samples(layout.synthetic, "id", "batch")
    reviews, inspector = current_reviews(layout, samples), Segmenter.load(layout.inspector, device, "backgrounds")
    extractor = load_extractor(settings.extractor, settings.extractor_revision, device, inspector)
    real, size, prepared = measure_real(cases, extractor), cases[0].image.shape[0], time.monotonic()
    with bar("filter") as report:
        measured = measure_samples(samples, read, partial(read_mode, layout.synthetic), real, inspector, size, report)
    with bar("duplicates") as report:
        table = measured.facts.join(measured.scores.table).assign(rule=decide(measured.scores, real, settings, report))
    seconds, table["accepted"] = time.monotonic() - prepared, (table["rule"] == "").astype(int)
    with replacing(layout.filtered) as filtered, replacing(layout.quality) as quality:
        batches = {str(batch): rows for batch, rows in table.groupby("batch")}
        verdicts = check_batches(batches, settings, size, quality / "data_docs", greatest_components(cases))
        table = heed_reviews(settle(table, verdicts), reviews, settings)
        decisions = DECISIONS.write(filtered, table)
        (filtered / "batches.json").write_text(json.dumps(describe_batches(verdicts), indent=1) + "\n")
        reviewed = count_reviews(table, reviews)
        if reviews:
            (filtered / "reviews.json").write_text(json.dumps(asdict(reviewed), indent=1) + "\n")
        accepted, lesions = decisions[decisions["verdict"] == "accepted"], decisions[decisions["area"] > 0]
        masks, ids, kept = dict[str, bytes](), accepted["id"].tolist(), (lesions["verdict"] == "accepted").to_numpy()
        corrosion = corrode_samples(cases, partial(read_pairs, layout.synthetic, accepted),
                                    lambda number, mask: masks.update({ids[number]: mask_png(mask)}), settings)
        write_masks(filtered, masks)
        CORROSION.write(filtered, corrosion.profiles)
        painted = read_pairs(layout.synthetic, lesions, "fidelity")
        corroded = ((image, read_mask(final_mask(filtered, id))) for id, (image, _) in zip(
            lesions["id"][kept], read_pairs(layout.synthetic, lesions[kept], "fidelity, corroded"), strict=True))
        fidelity = compare_samples(extractor, real, cases, read_cases(layout.cases("val")), painted, kept, corroded)
        numbers = fidelity.as_json() | {"corrosion": corrosion.numbers()}
        (filtered / "fidelity.json").write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n")
        page = quality_page(verdicts, decisions, settings, make_tiles(
            decisions, cases, read, lambda id: read_mask(final_mask(filtered, id)), extractor), "data_docs/index.html",
            params.prepare.classes, reviewed.words, tracker.about())
        (quality / "index.html").write_text(page, encoding="utf-8")
    tracker.headline({"acceptance": len(accepted) / len(decisions), "copies": float((table["rule"] == "copy").mean())})
    tracker.metrics(count_decisions(table, real, settings) | fidelity.numbers() | reviewed.numbers()
                    | {f"corrosion_{name}": value for name, value in corrosion.numbers().items()}
                    | {"seconds": time.monotonic() - begun, "samples_per_second": len(decisions) / seconds})
    tracker.dataset(decisions, "decisions", "filtered")
    tracker.file(layout.quality / "index.html")
    none = f"none of {len(decisions)} samples was accepted; {layout.quality / 'index.html'} shows why"
    tell("filter", [*reviewed.words, *([none] if accepted.empty else [])])
