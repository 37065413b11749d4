"""Stage `filter`: which synthetic samples are accepted, which batches are quarantined, and the corroded masks."""

import json
import time
from dataclasses import asdict
from functools import partial

from meddiff.cases import mask_png, read_mask
from meddiff.cluster import share_out
from meddiff.environment import use_machine
from meddiff.filtering.checks import check_batches, describe_batches
from meddiff.filtering.corrosion import corrode_samples
from meddiff.filtering.decisions import count_decisions, decide, settle
from meddiff.filtering.fidelity import compare_samples
from meddiff.filtering.measuring import Judge, greatest_components, measure_samples
from meddiff.filtering.page import make_tiles, quality_page
from meddiff.filtering.reviewing import count_reviews, heed_reviews
from meddiff.layout import Layout, replacing
from meddiff.outputs.cases import read_cases
from meddiff.outputs.reviews import current_reviews
from meddiff.outputs.samples import final_mask, read_mode, read_pair, read_pairs, read_samples, write_masks
from meddiff.outputs.tables import CORROSION, DECISIONS
from meddiff.params import Params
from meddiff.progress import bar, tell
from meddiff.services.tracking import StageRun


def load_judge(layout: Layout, params: Params) -> Judge:
    """What a process measures batches by, on its device."""
    return Judge.load(layout.inspector, read_cases(layout.cases("train")), params.filter, use_machine(params).compute.device,
                      partial(read_pair, layout.synthetic), partial(read_mode, layout.synthetic))


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Score, decide, check and corrode; write `filtered/` and `reports/quality/`.

    Raises:
        MeddiffError: a shard, picture, case, the inspector, the extractor or people's decisions can't be read.
    """
    params = use_machine(params)
    settings, begun, samples = params.filter, time.monotonic(), read_samples(layout.synthetic, "id", "batch")
    judge, reviews, prepared = load_judge(layout, params), current_reviews(layout, samples), time.monotonic()
    with bar("filter") as report:
        measured = measure_samples(samples, lambda batches, receive: share_out(
            batches, partial(load_judge, layout, params), Judge.measure, receive, params.compute, judge), report)
    with bar("duplicates") as report:
        table = measured.facts.join(measured.scores.table).assign(rule=decide(measured.scores, judge.real, settings, report))
    seconds, table["accepted"] = time.monotonic() - prepared, (table["rule"] == "").astype(int)
    with replacing(layout.filtered) as filtered, replacing(layout.quality) as quality:
        batches = {str(batch): rows for batch, rows in table.groupby("batch")}
        verdicts = check_batches(batches, settings, judge.size, quality / "data_docs", greatest_components(judge.cases))
        table = heed_reviews(settle(table, verdicts), reviews, settings)
        decisions, reviewed = DECISIONS.write(filtered, table), count_reviews(table, reviews)
        (filtered / "batches.json").write_text(json.dumps(describe_batches(verdicts), indent=1) + "\n")
        if reviews:
            (filtered / "reviews.json").write_text(json.dumps(asdict(reviewed), indent=1) + "\n")
        accepted, lesions = decisions[decisions["verdict"] == "accepted"], decisions[decisions["area"] > 0]
        masks, ids, kept = dict[str, bytes](), accepted["id"].tolist(), (lesions["verdict"] == "accepted").to_numpy()
        corrosion = corrode_samples(judge.cases, partial(read_pairs, layout.synthetic, accepted),
                                    lambda number, mask: masks.update({ids[number]: mask_png(mask)}), settings)
        write_masks(filtered, masks)
        CORROSION.write(filtered, corrosion.profiles)
        corroded = ((image, read_mask(final_mask(filtered, id))) for id, (image, _) in zip(
            lesions["id"][kept], read_pairs(layout.synthetic, lesions[kept], "fidelity, corroded"), strict=True))
        fidelity = compare_samples(judge.extractor, judge.real, judge.cases, read_cases(layout.cases("val")),
                                   read_pairs(layout.synthetic, lesions, "fidelity"), kept, corroded)
        numbers = fidelity.as_json() | {"corrosion": corrosion.numbers()}
        (filtered / "fidelity.json").write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n")
        tiles = make_tiles(decisions, judge.cases, judge.read, lambda id: read_mask(final_mask(filtered, id)), judge.extractor)
        page = quality_page(verdicts, decisions, settings, tiles, "data_docs/index.html", params.prepare.classes, reviewed.words,
                            tracker.about())
        (quality / "index.html").write_text(page, encoding="utf-8")
    tracker.headline({"acceptance": len(accepted) / len(decisions), "copies": float((table["rule"] == "copy").mean())})
    tracker.metrics(count_decisions(table, judge.real, settings) | fidelity.numbers() | reviewed.numbers()
                    | {f"corrosion_{name}": value for name, value in corrosion.numbers().items()}
                    | {"seconds": time.monotonic() - begun, "samples_per_second": len(decisions) / seconds})
    tracker.dataset(decisions, "decisions", "filtered")
    tracker.file(layout.quality / "index.html")
    none = f"none of {len(decisions)} samples was accepted; {layout.quality / 'index.html'} shows why"
    tell("filter", [*reviewed.words, *([none] if accepted.empty else [])])
