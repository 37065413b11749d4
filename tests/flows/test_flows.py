"""The flows without a server: their forms, what they hand to DVC, what is tried again, and what they show."""

import json
import logging
import math
import re
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import yaml
from prefect.exceptions import SignatureMismatchError
from prefect.states import State
from prefect.utilities.callables import parameter_schema, parameters_to_args_kwargs
from prefect.utilities.schema_tools.validation import validate

from flows import artifacts, deploy
from flows import benchmark as benchmark_module
from flows import pipeline as module
from flows.ablate import ablate as ablate_flow
from flows.benchmark import benchmark as benchmark_flow
from flows.form import FORM, filled
from flows.form import given as settings_given
from flows.pipeline import keep_results, may_pass, pipeline
from flows.promote import promote as promote_flow
from flows.tune import proposal
from flows.tune import tune as tune_flow
from meddiff.delivery.promote import Decision
from meddiff.errors import MeddiffError, ServiceError
from meddiff.experiments.benchmark.benchmark import Benchmark
from meddiff.experiments.benchmark.cells import Cell, cells_of
from meddiff.experiments.benchmark.significance import GAINS
from meddiff.experiments.run import Outcome
from meddiff.experiments.tuning.search import TuneResult
from meddiff.experiments.tuning.trials import TrialRow
from meddiff.layout import STAGES, Layout
from meddiff.params import Params
from meddiff.services.versioning import StageCrash

ROOT = Path(__file__).parents[2]


def interval(mean: float | None, lower: float, upper: float) -> dict[str, Any]:
    return {"mean": mean, "lower": lower, "upper": upper, "confidence": 0.95, "cases": 40, "seeds": 3}


SUMMARY = {
    "arms": {arm: {"dice": interval(dice, dice - 0.02, dice + 0.02), "iou": interval(None, 0, 0), "hd95": interval(4.25, 3, 5),
                   "nsd": interval(0.9, 0.8, 1)} for arm, dice in {"real": 0.5, "synthetic": 0.6}.items()},
    "gain": interval(0.1, 0.05, 0.15), "generated": 20, "accepted": 12, "n_real": 8}


def test_the_form_has_about_ten_settings_with_rule_and_help_and_a_field_for_the_rest() -> None:
    schema = parameter_schema(pipeline)
    assert tuple(schema.properties) == (*FORM, "advanced")
    assert len(FORM) < 12
    assert [found["position"] for found in schema.properties.values()] == list(range(len(schema.properties)))
    assert set(schema.required) == set(FORM)  # what isn't, the form calls optional
    fields = dict(schema.properties)
    advanced = fields.pop("advanced")
    assert (advanced["type"], advanced["default"], "properties" in advanced) == ("object", {}, False)  # drawn as a field of JSON
    assert "`meddiff params` lists them" in advanced["description"]
    for name, field in fields.items():
        section, setting = FORM[name]
        whole = type(getattr(Params(), section)).model_json_schema()["properties"][setting]
        assert {key: value for key, value in field.items() if key not in ("title", "description", "position")} == {
            key: value for key, value in whole.items() if key not in ("title", "description", "default")}
        assert field["description"] == f"{whole['description']} ({section}.{setting})"
    assert (fields["size"]["minimum"], fields["size"]["maximum"]) == (32, 1024)
    assert "busi" in fields["dataset"]["enum"]
    assert fields["seeds"]["type"] == "array"


@pytest.mark.parametrize(("values", "fault"), [
    ({}, ""), ({"advanced": {"generate": {"rim": 3}}}, ""), ({"guidance_scale": 99}, "99 is greater"),
    ({"seeds": ["a"]}, "'a'"), ({"dataset": "none"}, "'none'"),
    ({"advanced": {"generate": 3}}, "object"),
])
def test_the_server_takes_any_part_of_the_form_by_its_rules(values: dict[str, Any], fault: str) -> None:
    """By the check that Prefect's server makes of a run's parameters, which it puts over the deployment's before."""
    parameters = filled(Params()) | values
    found = validate(parameters, parameter_schema(pipeline).model_dump_for_openapi(), raise_on_error=False)
    assert bool(found) == bool(fault)
    assert fault in "".join(error.message for error in found)


def test_a_field_that_the_form_has_not_ends_the_run_at_its_start() -> None:
    with pytest.raises(SignatureMismatchError, match="guidence_scale"):
        parameters_to_args_kwargs(pipeline.fn, filled(Params()) | {"guidence_scale": 2})


def test_deployments_are_those_of_the_file_and_fill_their_sections() -> None:
    file = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert tuple(f"{d['entrypoint'].partition(':')[2]}/{d['name']}" for d in file["deployments"]) == deploy.DEPLOYMENTS
    assert {d["work_pool"]["name"] for d in file["deployments"]} == {deploy.POOL}
    fields = Params().model_dump(mode="json") | filled(Params())
    for flow in (pipeline, tune_flow, ablate_flow, benchmark_flow):
        assert set(parameter_schema(flow).properties) <= set(fields)


def test_promotion_asks_for_a_name_and_a_reason() -> None:
    schema = parameter_schema(promote_flow)
    assert schema.required == ["person", "reason"]
    assert all(field["description"] for field in schema.properties.values())
    for values, fault in (({"person": "Ana", "reason": "better"}, ""), ({"person": "", "reason": "better"}, "non-empty"),
                          ({"person": "Ana"}, "'reason' is a required property")):
        found = validate(values, schema.model_dump_for_openapi(), raise_on_error=False)
        assert fault in "".join(error.message for error in found)
        assert bool(found) == bool(fault)


@pytest.mark.parametrize(("passed", "state"), [(True, "Completed"), (False, "Refused")])
def test_a_promotion_tells_its_verdict(passed: bool, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, shown = list[Any](), list[str]()

    def decide(layout: Layout, params: Params, *given: Any) -> Decision:
        asked.append(given)
        return Decision(passed, ("ok: gain", "looks at these test cases: 2"), "7")

    (tmp_path / "params.yaml").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flows.promote.gate.promote", decide)
    monkeypatch.setattr("flows.promote.create_markdown_artifact", lambda text, **_: shown.append(text))
    monkeypatch.setattr("flows.promote.get_run_logger", lambda: logging.getLogger("flow"))
    made = promote_flow.fn("Ana", "it's better", "generator", "7", "ab12")
    assert made.name == state
    assert [given[0] for given in asked] == ["7"]
    assert asked[0][1].name == "generator"
    assert asked[0][2:] == ("ab12", "Ana", "it's better")
    assert "Asked for by Ana: it's better" in shown[0]
    assert "- looks at these test cases: 2" in shown[0]


def test_the_form_starts_from_the_settings_and_shows_what_differs_beside_them() -> None:
    params = Params.model_validate({"generate": {"n": 7, "rim": 3, "steps": 9}, "filter": {"agreement": 0.1},
                                    "tune": {"trials": 3}})
    fields = filled(params)
    assert (fields["samples"], fields["guidance_scale"]) == (7, params.generate.guidance_scale)
    assert fields["advanced"] == {"generate": {"rim": 3, "steps": 9}, "filter": {"agreement": 0.1}}
    assert filled(Params())["advanced"] == {}


def test_what_the_form_says_overrides_params_yaml(tmp_path: Path) -> None:
    (tmp_path / "models/sd").mkdir(parents=True)
    params = Params.model_validate({"prepare": {"n_labelled": 8}, "segment": {"seeds": [1, 2]},
                                    "foundation": {"source": "models/sd"}})
    fields = {name: value for name, value in filled(params).items() if name != "advanced"}
    whole = settings_given(fields, {}, tmp_path)
    assert {(section, name) for section, own in whole.items() for name in own} == set(FORM.values())
    assert (whole["prepare"]["n_labelled"], whole["segment"]["seeds"]) == (8, [1, 2])
    assert whole["foundation"] == {"source": str(tmp_path / "models/sd")}
    assert settings_given(fields | {"source": "embedded"}, {}, tmp_path)["foundation"] == {"source": "embedded"}
    more = settings_given(fields, {"segment": {"ratio": 2.0}, "filter": {"agreement": 0.0}}, tmp_path)
    assert more == whole | {"segment": whole["segment"] | {"ratio": 2.0}, "filter": {"agreement": 0.0}}
    with pytest.raises(MeddiffError, match=r"advanced: segment\.seeds: the form has this setting as `seeds`"):
        settings_given(fields, {"segment": {"seeds": [3]}}, tmp_path)


def test_a_crash_or_a_silent_service_is_tried_again_ever_later_and_bad_input_is_not() -> None:
    def failed(error: Exception) -> bool:
        return may_pass(None, None, State(type="FAILED", data=error))  # type: ignore[arg-type]

    assert failed(StageCrash("dvc repro segment", "the command must succeed (killed)", "Run it again"))
    assert failed(ServiceError("MLflow at http://there", "the tracking server must answer", "Start it"))
    assert not failed(MeddiffError("a.png", "an image must decode", "Replace it"))
    assert not failed(RuntimeError("of our own"))
    assert module.reproduce.retries == module.RETRIES
    assert list(module.reproduce.retry_delay_seconds) == [10, 20, 40]


def test_a_run_has_a_folder_of_its_own_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Run:
        name: ClassVar[str] = "../a b/ç"
        id: ClassVar[str] = "0123456789abcdef"

    monkeypatch.setattr(module, "flow_run", Run)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", module.run_name())
    assert module.run_name().endswith("-01234567")


def test_results_are_kept_with_what_brings_the_outputs_back(tmp_path: Path) -> None:
    tree = Layout(tmp_path / "tree")
    for file in (tree.params, tree.root / "dvc.lock", tree.report / "report.html", tree.quality / "index.html"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
        file.chmod(0o444)  # as links into DVC's cache may be
    for _ in range(2):  # a retried run writes them anew
        found = keep_results(tree, tmp_path / "results/run")
    assert {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()} == {
        "params.yaml", "dvc.lock", "evaluation/report.html", "quality/index.html"}


def test_the_dice_table_and_the_line_of_a_run() -> None:
    table = artifacts.dice_table(SUMMARY)
    assert "| synthetic | 0.600 (0.580 to 0.620) | – | 4.2 (3.0 to 5.0) | 0.900 (0.800 to 1.000) |" in table
    assert "Gain: +0.100 (+0.050 to +0.150) Dice** over 40 test cases and 3 training seeds." in table
    assert "12 of 20 synthetic pairs accepted" in table
    assert artifacts.headline(SUMMARY) == ("Dice: real 0.500 (0.480 to 0.520), synthetic 0.600 (0.580 to 0.620); "
                                           "gain +0.100 (+0.050 to +0.150)")
    alone = SUMMARY | {"gain": None}
    assert "No gain" in artifacts.dice_table(alone)
    assert "gain" not in artifacts.headline(alone)


def test_the_quality_table_names_what_failed() -> None:
    batches = {"b0": {"passed": True, "reasons": []}, "b1": {"passed": False, "reasons": ["Masks have 1 to 3 parts: 4 | 5", "x"]}}
    lines = artifacts.quality_table(batches).splitlines()
    assert lines[0] == "1 of 2 batches passed."
    assert lines[-2:] == ["| b0 | passed |  |", "| b1 | **quarantined** | Masks have 1 to 3 parts: 4 / 5; x |"]


def test_pictures_are_embedded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert artifacts.picture(tmp_path / "a.png", "Pairs") == "![Pairs](data:image/png;base64,iVBORw==)"


def test_artifacts_are_made_from_the_files_of_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, str] = {}
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda text, key, description: made.update({key: text}))
    layout = Layout(tmp_path)
    split = json.dumps({"train": ["a", "b", "c"], "val": ["d"], "test": ["e"], "backgrounds": ["n"]})
    cases = "id,group,labelled,image_sha256,mask_sha256,top,left,height,width,mode,raw_sha256,patient\n" + "".join(
        f"{id},g,{labelled},x,,0,0,9,9,L,,\n" for id, labelled in (("a", 1), ("b", 0), ("c", 0)))
    for path, text in ((layout.report / "summary.json", json.dumps(SUMMARY)), (layout.report / "pictures/pairs.png", "png"),
                       (layout.split, split), (layout.cases("train") / "cases.csv", cases), (layout.outlines, "png"),
                       (layout.filtered / "batches.json", json.dumps({"b0": {"passed": True, "reasons": []}}))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for stage in STAGES:
        if stage in module.SHOW:
            module.SHOW[stage](layout)
    assert set(made) == {"data", "quality", "dice", "pairs"}
    assert "| train | 3 | 1 |" in made["data"]
    assert "| val | 1 | all |" in made["data"]
    assert "data:image/png;base64" in made["pairs"]


@pytest.mark.parametrize("missing", [(), ("a-10-method-0: segment: it must work.",)])
def test_the_benchmark_runs_its_cells_as_tasks_and_shows_the_gains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   missing: tuple[str, ...]) -> None:
    class Task:
        ran: ClassVar[list[tuple[str, str]]] = []

        def with_options(self, task_run_name: str) -> Any:
            return lambda layout, cell, env, out: self.ran.append((task_run_name, env["MEDDIFF_EXECUTION"]))

    def prove(layout: Layout, params: Params, run: Any) -> Benchmark:
        assert (layout.root, params.benchmark.budget, params.benchmark.paper) == (tmp_path, 10, False)
        for cell in cells_of(params):
            assert isinstance(cell, Cell)
            run(cell, {"MEDDIFF_EXECUTION": "own"}, tmp_path / "out")
        gain = {"dataset": "a", "budget": "all", "arm": "synthetic", "against": "real", "mean": 0.03, "lower": 0.01,
                "upper": 0.05, "p_holm": 0.01, "cases": 40, "seeds": 5, "metric": "dice"}
        return Benchmark(pd.DataFrame([gain] * (not missing), columns=list(GAINS)), missing, tmp_path / "benchmark.html")

    shown: dict[str, Any] = {}
    (tmp_path / "params.yaml").write_text("benchmark: {budget: 10}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark_module.benchmarking, "benchmark", prove)
    monkeypatch.setattr(benchmark_module, "cell_task", Task())
    monkeypatch.setattr(benchmark_module, "create_table_artifact", lambda table, key, description: shown.update({key: table}))
    Task.ran.clear()
    given = Params.model_validate({"benchmark": {"seeds": [3], "budgets": ["all"], "paper": False}}).benchmark
    if missing:
        with pytest.raises(MeddiffError, match="1 cells are missing: a-10-method-0"):
            benchmark_flow.fn(given)
        assert shown == {"benchmark-gains": []}
    else:
        benchmark_flow.fn(given)
        assert shown["benchmark-gains"][0]["budget"] == "all"
    assert Task.ran == [("demo-all-method-3", "own"), ("demo-10-method-3", "own")]


def test_a_search_proposes_a_change_and_shows_its_trials(tmp_path: Path) -> None:
    rows = tuple(TrialRow(n, {"filter.agreement": n / 2}, dice, 0.01, 3.0,
                          Outcome({"synthetic": {0: dice}}, 10, accepted, {}, (), 1.0, 90.0))
                 for n, (dice, accepted) in enumerate(((math.nan, 0), (0.7, 5), (0.5, 5))))
    text = proposal(TuneResult("study", rows, rows[1], "it is the best", 0.7, "-a\n+b\n", tmp_path / "best.diff"))
    assert "```diff\n-a\n+b\n```" in text
    assert f"patch -p1 < {tmp_path / 'best.diff'}" in text
    assert text.startswith("Trial 1 is proposed: mean validation Dice 0.7000; it is the best.")
    assert [line.replace(" ", "") for line in text.splitlines()[-3:]] == [
        "|1|0.7000±0.0100|3.0*|5||0.5|", "|2|0.5000±0.0100|3.0|5||1|", "|0|nothingaccepted|–|0||0|"]
    same = proposal(TuneResult("study", rows, rows[1], "it is the best", 0.7, "", tmp_path / "best.diff"))
    assert "has the best settings already" in same
