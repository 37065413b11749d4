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
from prefect.states import State
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows import artifacts, deploy
from flows import benchmark as benchmark_module
from flows import pipeline as module
from flows.ablate import ablate as ablate_flow
from flows.benchmark import benchmark as benchmark_flow
from flows.form import filled
from flows.form import given as settings_given
from flows.pipeline import crashed, keep_results, pipeline
from flows.promote import promote as promote_flow
from flows.tune import proposal
from flows.tune import tune as tune_flow
from meddiff.delivery.promote import Decision
from meddiff.errors import MeddiffError
from meddiff.experiments.benchmark.benchmark import Benchmark
from meddiff.experiments.benchmark.cells import Cell, cells_of
from meddiff.experiments.benchmark.significance import GAINS
from meddiff.experiments.run import Outcome
from meddiff.experiments.tuning.search import TuneResult
from meddiff.experiments.tuning.trials import TrialRow
from meddiff.layout import STAGES, Layout
from meddiff.params import MAIN, Params
from meddiff.services.versioning import StageCrash

ROOT = Path(__file__).parents[2]


def interval(mean: float | None, lower: float, upper: float) -> dict[str, Any]:
    return {"mean": mean, "lower": lower, "upper": upper, "confidence": 0.95, "cases": 40, "seeds": 3}


SUMMARY = {
    "arms": {arm: {"dice": interval(dice, dice - 0.02, dice + 0.02), "iou": interval(None, 0, 0), "hd95": interval(4.25, 3, 5),
                   "nsd": interval(0.9, 0.8, 1)} for arm, dice in {"real": 0.5, "synthetic": 0.6}.items()},
    "gain": interval(0.1, 0.05, 0.15), "generated": 20, "accepted": 12, "n_real": 8}


def test_the_form_has_the_settings_that_people_set_with_default_rule_and_help_and_a_field_for_the_rest() -> None:
    schema = parameter_schema(pipeline)
    assert tuple(schema.properties) == (*STAGES, "compute", "advanced")
    assert [found["position"] for found in schema.properties.values()] == list(range(len(schema.properties)))
    assert not schema.required
    sections = dict(schema.properties)
    advanced = sections.pop("advanced")
    assert (advanced["type"], advanced["default"], "properties" in advanced) == ("object", {}, False)  # drawn as a field of JSON
    assert "`meddiff params` lists them" in advanced["description"]
    for name, section in sections.items():
        assert tuple(section["properties"]) == MAIN[name]
        others = {pattern.strip("^$") for pattern in section["patternProperties"]}
        assert {*section["properties"], *others} == set(getattr(Params(), name).model_dump())
        assert not section["additionalProperties"]
        assert section["description"]
    size, dataset = sections["prepare"]["properties"]["size"], sections["prepare"]["properties"]["dataset"]
    assert (size["minimum"], size["maximum"], size["default"]) == (32, 1024, Params().prepare.size)
    assert size["description"].startswith("side of")
    assert "busi" in dataset["enum"]
    assert sections["segment"]["properties"]["seeds"]["type"] == "array"


@pytest.mark.parametrize(("values", "fault"), [
    ({}, ""), ({"generate": {"rim": 3}}, ""), ({"advanced": {"generate": {"rim": 3}}}, ""),
    ({"generate": {"guidance_scale": 99}}, "99 is greater"), ({"generate": {"guidence_scale": 2}}, "'guidence_scale'"),
    ({"generate": {"rim": 99}}, "99 is greater"), ({"generate": {"seed": 3}}, "'seed'"),
    ({"advanced": {"generate": 3}}, "object"),
])
def test_the_server_takes_all_settings_of_a_section_and_no_other(values: dict[str, Any], fault: str) -> None:
    """By the check that Prefect's server makes of a run's parameters before it accepts them."""
    found = validate(values, parameter_schema(pipeline).model_dump_for_openapi(), raise_on_error=False, ignore_required=True)
    assert bool(found) == bool(fault)
    assert fault in "".join(error.message for error in found)


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
    params = Params.model_validate({"generate": {"n": 7, "rim": 3}, "tune": {"trials": 3}})
    fields = filled(params)
    assert fields["generate"] == {"n": 7, "steps": params.generate.steps, "guidance_scale": params.generate.guidance_scale}
    assert fields["advanced"] == {"generate": {"rim": 3}}
    assert filled(Params())["advanced"] == {}


def test_only_what_is_given_overrides_params_yaml(tmp_path: Path) -> None:
    (tmp_path / "models/sd").mkdir(parents=True)
    given = {"prepare": {"n_labelled": 8}, "foundation": {"source": "models/sd"}, "segment": {"seeds": [1, 2]}}
    params = Params.model_validate(given)
    sections = {name: getattr(params, name) for name in MAIN}
    whole = given | {"foundation": {"source": str(tmp_path / "models/sd")}}
    assert settings_given(sections, {}, tmp_path) == whole
    assert settings_given({**sections, "foundation": Params.model_validate({"foundation": {"source": "embedded"}}).foundation},
                          {}, tmp_path)["foundation"] == {"source": "embedded"}
    more = settings_given(sections, {"segment": {"ratio": 2.0}, "generate": {"rim": 0}}, tmp_path)
    assert more == whole | {"segment": {"seeds": [1, 2], "ratio": 2.0}, "generate": {"rim": 0}}
    with pytest.raises(MeddiffError, match=r"advanced: segment\.seeds: the form has this setting"):
        settings_given(sections, {"segment": {"seeds": [3]}}, tmp_path)


def test_a_crash_is_tried_again_and_bad_input_is_not() -> None:
    def failed(error: Exception) -> bool:
        return crashed(None, None, State(type="FAILED", data=error))  # type: ignore[arg-type]

    assert failed(StageCrash("dvc repro segment", "the command must succeed (killed)", "Run it again"))
    assert not failed(MeddiffError("a.png", "an image must decode", "Replace it"))
    assert not failed(RuntimeError("of our own"))
    assert module.reproduce.retries == module.RETRIES


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
    for path, text in ((layout.report / "summary.json", json.dumps(SUMMARY)), (layout.report / "pictures/pairs.png", "png"),
                       (layout.filtered / "batches.json", json.dumps({"b0": {"passed": True, "reasons": []}}))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for stage in STAGES:
        if stage in module.SHOW:
            module.SHOW[stage](layout)
    assert set(made) == {"quality", "dice", "pairs"}
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
    text = proposal(TuneResult("study", rows, rows[1], 0.7, "-a\n+b\n", tmp_path / "best.diff"))
    assert "```diff\n-a\n+b\n```" in text
    assert f"patch -p1 < {tmp_path / 'best.diff'}" in text
    assert text.splitlines()[-3:] == ["| 1 | 0.7000 ± 0.0100 | 3.0 | 0.5 |", "| 2 | 0.5000 ± 0.0100 | 3.0 | 1 |",
                                      "| 0 | nothing accepted | – | 0 |"]
    assert "has the best settings already" in proposal(TuneResult("study", rows, rows[1], 0.7, "", tmp_path / "best.diff"))
