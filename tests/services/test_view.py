"""Tags by which MLflow's page opens on the training runs with their columns: set once, and asked of nobody who may only read."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking import connect, runs_page
from meddiff.services.tracking.view import VIEW_TAGS, show_columns


def test_a_new_experiment_has_the_view_that_the_link_names(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    server = connect(Layout(tmp_path), Params().tracking)
    tags = server.client.get_experiment(server.experiment).tags
    page = runs_page("http://here:5000/", server.experiment)
    address, _, key = page.rpartition("?viewStateShareKey=")
    assert address == f"http://here:5000/#/experiments/{server.experiment}/runs"
    columns = json.loads(tags[f"mlflow.sharedViewState.{key}"])["selectedColumns"]
    assert {"metrics.`dice_real`", "metrics.`gain`", "metrics.`acceptance`"} <= set(columns)
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_only_what_differs_is_set_and_a_refusal_is_no_fault() -> None:
    asked = list[str]()

    def set_experiment_tag(id: str, name: str, value: str) -> None:
        asked.append(name)
        raise MlflowException("Permission denied")

    client = SimpleNamespace(set_experiment_tag=set_experiment_tag)
    show_columns(client, SimpleNamespace(experiment_id="1", tags=dict(VIEW_TAGS)))
    assert asked == []
    show_columns(client, SimpleNamespace(experiment_id="1", tags={}))
    assert len(asked) == 1
