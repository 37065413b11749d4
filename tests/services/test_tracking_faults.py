"""A tracking server that goes away while a stage runs, for a moment and for good."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.tracking import stage_run
from tests.faults.proxies import first, never, standing_before
from tests.infra.platforms import clean_environment

pytestmark = pytest.mark.services


def test_a_stage_outlives_a_server_that_is_away_for_a_moment(mlflow_server: str, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("{}\n")
    with standing_before(mlflow_server) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
        with stage_run(Layout(tmp_path), Params(), "filter") as tracker:
            for fault in (first(2, "gone"), first(1, "500")):
                proxy.fault = fault
                tracker.headline({"acceptance": 0.25})
                tracker.own.flush()
                tracker.whole.flush()
                assert fault("POST", "") == "", "it has been away"
    told = MlflowClient(mlflow_server).get_run(tracker.whole.id)
    assert (told.info.status, told.data.metrics["acceptance"]) == ("FINISHED", 0.25)


def test_of_a_server_that_goes_for_good_is_told_and_the_same_command_finishes(mlflow_server: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("prepare: {size: 32, n_labelled: 8, demo_cases: 24, demo_normal: 8}\n")
    env = clean_environment(Path(__file__).parents[2])
    env |= {"MEDDIFF_EXECUTION": "left alone", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}

    def prepare(address: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, "-m", "meddiff", "prepare"], cwd=tmp_path, capture_output=True, text=True,
                              env=env | {"MLFLOW_TRACKING_URI": address}, check=False)

    with standing_before(mlflow_server) as proxy:
        proxy.fault = lambda method, path: "gone" * any("log-inputs" in place for _, place in proxy.asked)
        done = prepare(proxy.address)
        assert (done.returncode, "Traceback" in done.stderr) == (os.EX_TEMPFAIL, False), done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"meddiff: MLflow at {proxy.address}: the tracking server must answer")
        proxy.fault = never
        done = prepare(proxy.address)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(mlflow_server)
    (experiment,) = (found for found in client.search_experiments() if found.name == "meddiff")
    (whole,) = client.search_runs([experiment.experiment_id], "tags.`meddiff.execution` = 'left alone'")
    assert whole.info.status == "FINISHED"
    assert sum(path.suffix == ".png" for path in (tmp_path / "data").rglob("*")) > 24
