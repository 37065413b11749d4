"""The error that users meet, and what it hides."""

import pytest

from meddiff.errors import MeddiffError, redacted

SHOWN = {
    "postgresql+psycopg://u:SECRET@db.example.org/x": "postgresql+psycopg://u:***@db.example.org/x",
    "postgresql://u:SEC/RET@x'y@db/x?sslmode=require": "postgresql://u:***@db/x?sslmode=require",  # not escaped as it should be
    "postgresql://db/x?user=u&password=SECRET&sslmode=require": "postgresql://db/x?user=u&password=***&sslmode=require",
    "http://:SECRET@127.0.0.1:9/a": "http://:***@127.0.0.1:9/a",
    "https://SECRET@example.org/a": "https://***@example.org/a",
    "https://s3.example.org/b?X-Amz-Signature=SECRET&a=1": "https://s3.example.org/b?X-Amz-Signature=***&a=1",
    "host=db password=SECRET dbname=x": "host=db password=*** dbname=x",
    '["http://a:SECRET@b", 3]': '["http://a:***@b", 3]',
}
PLAIN = ("sqlite:////data/.work/mlflow.db", "http://127.0.0.1:5000/#/runs/1", "models:/meddiff-generator@champion", "a@b.example",
         "s3://bucket/prefix@2", "file:///data/a:b@c", "postgresql+psycopg://USER@HOST/NAME", "finetune.token: hta", "seed=3")


@pytest.mark.parametrize("text", SHOWN)
def test_passwords_and_tokens_are_hidden(text: str) -> None:
    assert redacted(text) == SHOWN[text]
    assert redacted(f"could not reach {text} (refused)") == f"could not reach {SHOWN[text]} (refused)"
    error = MeddiffError(text, f"it must answer ({text})", f"Correct {text}")
    assert "SECRET" not in str(error) + error.where + error.rule + error.remedy


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays(text: str) -> None:
    assert redacted(text) == text
