"""The policy for S3 stores is enough for what the project does there, and for nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.core import set_initial_no_auth_action_count
from moto.server import ThreadedMotoServer

from meddiff.services.storage import S3Store

POLICY = (Path(__file__).parents[2] / "infra/s3-policy.json").read_text()
PREPARATIONS = 6  # requests of the fixture, before moto looks at rights


@pytest.fixture
def store() -> Iterator[str]:
    """The address of a store of its own: with the first request after `limited` it heeds policies."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def limited(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets, and keys of an account with the policy in the environment."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    given: dict[str, Any] = {"endpoint_url": address, "region_name": "us-east-1", "aws_access_key_id": "admin",
                             "aws_secret_access_key": "admin"}
    for bucket in ("dvc", "releases", "mlflow"):
        boto3.client("s3", **given).create_bucket(Bucket=bucket)
    accounts = boto3.client("iam", **given)
    accounts.create_user(UserName="worker")
    accounts.put_user_policy(UserName="worker", PolicyName="meddiff", PolicyDocument=POLICY)
    key = accounts.create_access_key(UserName="worker")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])


@set_initial_no_auth_action_count(PREPARATIONS)
def test_the_policy_lets_objects_be_added_and_none_be_removed(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(store, monkeypatch)
    for bucket in ("dvc", "releases"):
        place = S3Store(bucket, "lab", store)
        assert place.put("v1/a.txt", b"whole")
        assert place.get("v1/a.txt") == b"whole"
        assert place.folders() == ["v1"]
        for forbidden in (lambda c=place.client, b=bucket: c.delete_object(Bucket=b, Key="lab/v1/a.txt"),
                          lambda c=place.client, b=bucket: c.delete_bucket(Bucket=b),
                          lambda c=place.client, b=bucket: c.put_bucket_policy(Bucket=b, Policy="{}"),
                          lambda c=place.client: c.create_bucket(Bucket="further"),
                          lambda c=place.client: c.list_objects_v2(Bucket="mlflow"),
                          lambda c=place.client: c.put_object(Bucket="mlflow", Key="a", Body=b"a")):
            with pytest.raises(ClientError, match="AccessDenied"):
                forbidden()
        assert place.get("v1/a.txt") == b"whole"


def test_the_policy_names_what_is_allowed_one_by_one() -> None:
    actions = [action for statement in json.loads(POLICY)["Statement"] for action in statement["Action"]]
    assert not [action for action in actions if "*" in action or "Delete" in action or "Policy" in action]
