"""Webhooks against a real MLflow server and a receiver on loopback: a promoted champion reaches who serves it, signed."""

import base64
import hashlib
import hmac
import json
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from meddiff.delivery import promote as gate
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services import tracking

pytestmark = pytest.mark.services
SECRET = "a secret of at least sixteen characters"
METRICS = {"gain_lower": 0.01, "gain_seeds": 3, "acceptance": 0.5, "copies": 0.0, "memorised_p": 0.4, "dice_real": 0.6,
           "dice_synthetic": 0.65}
SETTINGS = {"evaluate.confidence": 0.95, "evaluate.resamples": 2000, "segment.steps": 160, "segment.seeds": [0, 1, 2]}


@dataclass(frozen=True)
class Post:
    """What a receiver got."""

    headers: dict[str, str]
    body: bytes


@pytest.fixture
def receiver() -> Iterator[tuple[str, "queue.Queue[Post]"]]:
    """Its address, and the posts that it took."""
    posts: queue.Queue[Post] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.put(Post(dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/models", posts
        server.shutdown()
        thread.join()


@pytest.fixture
def project(mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.delenv("MEDDIFF_CATALOG_URL", raising=False)
    (tmp_path / "params.yaml").write_text("{}\n")
    return Layout(tmp_path)


def register(server: str, name: str) -> None:
    """A version of a generator, evaluated by a complete run that keeps to the protocol."""
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("meddiff")
    run = client.create_run(experiment.experiment_id if experiment else client.create_experiment("meddiff")).info.run_id
    tags = {"meddiff.model_version": f"{name}/1", "meddiff.complete": "true", "meddiff.test": "digest"}
    client.log_batch(run, [Metric(key, value, 0, 0) for key, value in METRICS.items()],
                     [Param(key, str(value)) for key, value in SETTINGS.items()],
                     [RunTag(key, value) for key, value in tags.items()])
    client.create_registered_model(name)
    client.create_model_version(name, f"runs:/{run}/model", run)


def test_a_promoted_champion_reaches_the_receiver_signed(project: Layout, mlflow_server: str,
                                                         receiver: tuple[str, "queue.Queue[Post]"]) -> None:
    url, posts = receiver
    params = Params.model_validate({"promote": {"model": "posted"}})
    register(mlflow_server, "posted")
    hook = tracking.add_webhook(project, params, url, SECRET)
    assert tracking.list_webhooks(project, params) == [hook]
    assert tracking.add_webhook(project, params, url, SECRET).id == hook.id
    assert tracking.try_webhook(project, params, hook.id) == "status 204"
    posts.get(timeout=20)
    assert gate.promote(project, params).passed
    post = posts.get(timeout=20)
    told = json.loads(post.body)
    assert (told["entity"], told["action"]) == ("model_version_alias", "created")
    assert told["data"] == {"name": "posted", "alias": "champion", "version": "1"}
    signed = b".".join([post.headers["X-MLflow-Delivery-Id"].encode(), post.headers["X-MLflow-Timestamp"].encode(), post.body])
    expected = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert post.headers["X-MLflow-Signature"] == f"v1,{expected}"
    tracking.remove_webhook(project, params, hook.id)
    assert tracking.list_webhooks(project, params) == []


def test_what_the_server_or_the_receiver_refuses(project: Layout, mlflow_server: str) -> None:
    with pytest.raises(MeddiffError, match="16 characters or more"):
        tracking.add_webhook(project, Params(), "http://127.0.0.1:9/x", "short")
    with pytest.raises(MeddiffError, match="MLFLOW_WEBHOOK_ALLOWED_SCHEMES"):
        tracking.add_webhook(project, Params(), "ftp://127.0.0.1/x", SECRET)
    with pytest.raises(MeddiffError, match="meddiff webhook list"):
        tracking.remove_webhook(project, Params(), "nothing")


def test_without_a_server_there_is_nobody_to_post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(MeddiffError, match="a database without one"):
        tracking.list_webhooks(Layout(tmp_path), Params())
