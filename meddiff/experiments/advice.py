"""Which arm to use on this dataset, and how many more annotated images it is worth, by the real arm's curve over label budgets.

The curve is of validation cases, so no test case is looked at for it, or of the test cases of a benchmark that is there already.
Started again it goes on: a budget's scores are kept in `.work/advise/done/` under a name made from settings, code and data.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from pydantic import TypeAdapter

from meddiff import finished
from meddiff.environment import use_machine
from meddiff.errors import MeddiffError
from meddiff.evaluation.advice import Worth, advice_sentence, worth, worth_command
from meddiff.evaluation.summary import METRICS, Advice, mean_over_classes, patients, score_matrix, with_lesion
from meddiff.experiments.run import pipeline_key, tree_run
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.tables import CASES, VALIDATION, VALIDATION_CASES
from meddiff.params import Params
from meddiff.params.arms import BASELINE
from meddiff.params.overrides import Overrides
from meddiff.progress import Report
from meddiff.segmentation.scoring import validate_cases
from meddiff.segmentation.segmenter import train_segmenter
from meddiff.services import tracking
from meddiff.training import side_by_side

_ACTION = "advise"


def advise_user(layout: Layout, params: Params, budgets: Sequence[int] = ()) -> list[str]:
    """The answer in sentences: the arm, chosen by the validation cases, and what it is worth.

    Args:
        budgets: annotated training cases, for each of which the real arm is trained; none: what a benchmark has left.

    Raises:
        MeddiffError: nothing is evaluated yet, or the dataset has fewer annotated training cases than a budget.
    """
    advice = _read(layout)
    if advice is None:
        return ["Which arm to use can't be told: the validation or the test cases say nothing."]
    lines = [advice_sentence(advice)]
    if advice.arm == BASELINE:
        return [*lines, "No other arm is better, so none is worth more annotated images."]
    if budgets:
        return [*lines, _by_validation(layout, params, advice.arm, budgets).sentence,
                f"This curve alone used the annotation of up to {max(budgets)} training cases."]
    made = _by_benchmark(layout, params, advice.arm)
    return [*lines, made.sentence if made else "How many more annotated images that is worth can't be told without the real "
            f"arm's curve over budgets: {worth_command(params.prepare.n_labelled)} trains it, by the annotation of further "
            "training cases, if the dataset has it."]


def _read(layout: Layout) -> Advice | None:
    """What `evaluate` wrote."""
    path = layout.report / "summary.json"
    try:
        return TypeAdapter(Advice | None).validate_python(json.loads(path.read_text())["advice"])
    except (OSError, ValueError, KeyError) as e:
        raise MeddiffError(path, "the evaluation must be there, with its advice", "Run `dvc repro`") from e


def _by_validation(layout: Layout, params: Params, arm: str, budgets: Sequence[int]) -> Worth:
    """Train the real arm with each budget, on cases chosen as those of the project, and score it on the validation cases."""
    trained, scores = VALIDATION.read(layout.segmenters), VALIDATION_CASES.read(layout.segmenters)
    labelled = int(trained.loc[trained["arm"] == arm, "n_real"].max())
    real = {labelled: scores[scores["arm"] == BASELINE]} if BASELINE in set(scores["arm"]) else {}
    with tracking.recorded_action(layout, params, _ACTION, f"{_ACTION} {params.prepare.dataset}") as record:
        for budget in sorted({*budgets} - {*real}):
            real[budget] = VALIDATION_CASES.read(_train(layout, params, budget, record.env))
        lesions = scores[scores["dice"].notna() & (scores["arm"] == arm)]
        made = worth(arm, labelled, score_matrix(lesions, arm, "dice"), {
            budget: score_matrix(table[table["dice"].notna()], BASELINE, "dice") for budget, table in real.items()},
            patients(lesions), params.evaluate)
        record.metrics({f"dice_real_{budget}": dice for budget, dice in zip(made.budgets, made.curve, strict=True)})
    return made


def _train(layout: Layout, params: Params, budget: int, env: Mapping[str, str]) -> Path:
    """The folder with the `validation_cases.csv` of the real arm with a budget, trained if it isn't kept."""
    overrides: Overrides = {"prepare": {"n_labelled": budget}, "segment": {"arms": [BASELINE]}}
    name = finished.key(pipeline_key(layout, params, overrides, "prepare"), params.segment, finished.code("segmentation.scoring"),
                        params.compute.precision)
    folder = layout.work / _ACTION / "done" / str(budget) / name

    def make(fresh: Path) -> None:
        with tree_run(layout, _ACTION, f"budget-{budget}", overrides, env) as run:
            run.up_to("prepare")
            if (there := int(CASES.read(run.tree.cases("train"), "labelled")["labelled"].sum())) < budget:
                raise MeddiffError("--budgets", f"a budget of {budget} needs as many annotated training cases, there are {there}",
                                   "Leave it out")
            VALIDATION_CASES.write(fresh, _fit(run.tree, params, layout.work / _ACTION / "checkpoints" / name, budget))

    made = finished.finish(folder, make)
    finished.forget(made.parent, [made])
    finished.forget(layout.work / _ACTION / "checkpoints")
    return made


def _fit(tree: Layout, params: Params, checkpoints: Path, budget: int) -> pd.DataFrame:
    """The real arm with every seed, as stage `segment` trains it, on the validation cases."""
    params = use_machine(params)
    real, validation, device = read_cases(tree.cases("train")), read_cases(tree.cases("val")), params.compute.device

    def fit(seed: int, report: Report) -> pd.DataFrame:
        net = train_segmenter(real, [], params.segment, seed, validation, device, checkpoints / f"{seed}.safetensors", report,
                              len(params.prepare.classes))
        return validate_cases(net, validation, BASELINE, seed)

    jobs = {f"advise {budget} annotated, seed {seed}": partial(fit, seed) for seed in params.segment.seeds}
    return pd.concat(side_by_side(jobs, device), ignore_index=True)


def _by_benchmark(layout: Layout, params: Params, arm: str) -> Worth | None:
    """From the test scores of a benchmark of this dataset with this arm and several budgets; None where there is none."""
    names = [each.name for each in params.benchmark.datasets
             if (each.dataset, each.path) == (params.prepare.dataset, params.prepare.path)]
    path, budget = layout.benchmark / "per_case.csv", str(params.benchmark.budget)
    if not names or not path.is_file():
        return None
    table = pd.read_csv(path, dtype={"case": str, "group": str, "budget": str, "dataset": str}, keep_default_na=False,
                        na_values={name: [""] for name in (*METRICS, "dice_undecided")})
    table = table[(table["dataset"] == names[0]) & table["arm"].isin([arm, BASELINE]) & (table["budget"] != "all")]
    cases = {key: mean_over_classes(with_lesion(part)) for key, part in table.groupby(["arm", "budget"])}
    seeds = set.intersection(*(set(part["seed"]) for part in cases.values())) if cases else set()
    cases = {key: part[part["seed"].isin(seeds)] for key, part in cases.items()}
    real = {int(each): score_matrix(part, BASELINE, "dice") for (which, each), part in cases.items() if which == BASELINE}
    if (own := cases.get((arm, budget))) is None or len(real) < 2 or own.empty:
        return None
    return worth(arm, int(budget), score_matrix(own, arm, "dice"), real, patients(own), params.evaluate, "test")
