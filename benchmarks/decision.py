"""What the decision for the whole image gives and costs, on the test cases of one dataset with the real arm alone.

    python benchmarks/decision.py DATASET [--cost 0 0.005 0.02 0.05] [--labelled 40] [--steps 1500] [--seeds 0 1] [--size 64]

DATASET has the layout `folder`, with lesion-free images in `normal/`. A segmenter a seed is trained once; for each
`segment.decision_cost` its bounds are chosen anew on the validation cases. Prints the specificity and sensitivity of whole
images and the Dice of the images with a lesion, with their 95 % intervals over groups and seeds; `none` is without bounds.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
import tempfile  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from meddiff.cases import Case  # noqa: E402
from meddiff.evaluation.bootstrap import Interval, mean_interval  # noqa: E402
from meddiff.evaluation.summary import detect_lesions, mean_over_classes, patients, score_matrix, with_lesion  # noqa: E402
from meddiff.layout import Layout  # noqa: E402
from meddiff.outputs.cases import read_cases  # noqa: E402
from meddiff.params import EvaluateParams, Params  # noqa: E402
from meddiff.segmentation.decision import Bounds, choose_bounds  # noqa: E402
from meddiff.segmentation.scoring import predict_cases, score_predictions  # noqa: E402
from meddiff.segmentation.segmenter import Segmenter, train_segmenter  # noqa: E402
from meddiff.segmentation.validation import has_lesion, validation_scores  # noqa: E402
from meddiff.services.tracking import Unrecorded  # noqa: E402
from meddiff.stages import prepare  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--cost", type=float, nargs="+", default=[0, 0.005, 0.02, 0.05])
    parser.add_argument("--labelled", type=int, default=40)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    params = Params.model_validate({
        "prepare": {"dataset": "folder", "path": str(options.dataset), "size": options.size, "n_labelled": options.labelled},
        "segment": {"steps": options.steps}})
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        prepare.run(layout, params, Unrecorded())
        train, val, test = (read_cases(layout.root / "data" / part) for part in ("train", "val", "test"))
    print(f"{len(train)} annotated; validation and test cases, lesion-free ones: {_counted(val)}, {_counted(test)}", flush=True)
    trained = {seed: train_segmenter(train, [], params.segment, seed, val) for seed in options.seeds}
    print("| cost | specificity | sensitivity | Dice |\n|---|---|---|---|")
    for cost in (None, *options.cost):
        chosen = {("real", seed): predict_cases(_bounded(net, val, cost), test) for seed, net in trained.items()}
        strata = ["lesion" if has_lesion(case) else "empty" for case in test]
        table = score_predictions(chosen, test, strata, 2.0, ["lesion"])
        found, lesions = detect_lesions(table, EvaluateParams())["real"], mean_over_classes(with_lesion(table))
        dice = mean_interval(score_matrix(lesions, "real", "dice"), patients(lesions))
        shares = [_words(share, 100, 0) for share in (found.specificity, found.sensitivity)]
        print(f"| {'none' if cost is None else f'{cost:g}'} | {shares[0]} % | {shares[1]} % | {_words(dice, 1, 3)} |", flush=True)


def _bounded(net: Segmenter, val: list[Case], cost: float | None) -> Segmenter:
    """With bounds chosen for a cost; None: without."""
    if cost is None:
        return replace(net, bounds=Bounds())
    findings = net.findings(np.stack([case.image for case in val]), weigh=True)
    dice = validation_scores(findings.masks, val, 1)
    return replace(net, bounds=choose_bounds(findings.areas, findings.probabilities, dice, cost))


def _words(value: Interval, factor: float, digits: int) -> str:
    mean, lower, upper = (f"{factor * each:.{digits}f}" for each in (value.mean, value.lower, value.upper))
    return f"{mean} ({lower} to {upper})"


def _counted(cases: list[Case]) -> str:
    free = sum(not has_lesion(case) for case in cases)
    return f"{len(cases)}, {free}"


if __name__ == "__main__":
    main()
