"""The audit log: who is recorded, what is listed, and that no row changes or goes; in SQLite and in a real PostgreSQL."""

import getpass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services import catalog


def test_actions_are_listed_in_their_order_with_all_that_was_said(params: Params, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert catalog.list_actions(layout, params) == []
    first = catalog.record_action(layout, params, "promoted", "meddiff-segmenter 3", "it's better", "2", "3", person="Ana")
    second = catalog.record_action(layout, params, "withdrew", "patient 7f", "consent withdrawn")
    assert catalog.list_actions(layout, params) == [first, second]
    assert (first.person, first.action, first.subject, first.reason, first.before, first.after) == (
        "Ana", "promoted", "meddiff-segmenter 3", "it's better", "2", "3")
    assert timedelta(0) <= datetime.now(UTC) - first.at < timedelta(minutes=1)
    assert catalog.list_actions(layout, params, "segmenter") == [first]
    assert catalog.list_actions(layout, params, "%") == []
    assert catalog.list_actions(layout, params, limit=1) == [second]


@pytest.mark.parametrize("statement", ["UPDATE meddiff_actions SET person = 'nobody'", "DELETE FROM meddiff_actions"])
def test_a_row_stays_as_it_is(params: Params, tmp_path: Path, statement: str) -> None:
    layout = Layout(tmp_path)
    kept = catalog.record_action(layout, params, "released", "file:///r/v1", person="Ana")
    engine = sa.create_engine(params.catalog.url or f"sqlite:///{layout.work / 'catalog.db'}", poolclass=sa.NullPool)
    with pytest.raises(sa.exc.DBAPIError, match="stay as they are"), engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert catalog.list_actions(layout, params) == [kept]


def test_who_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, named = Layout(tmp_path), Params.model_validate({"catalog": {"person": "Ben"}})
    for name in (catalog.PERSON_VARIABLE, catalog.URL_VARIABLE, "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    assert catalog.person_of(Params()) == getpass.getuser()
    monkeypatch.setenv("SUDO_USER", "cem")
    assert catalog.person_of(Params()) == f"cem as {getpass.getuser()}"
    assert catalog.record_action(layout, named, "tuned", "study").person == "Ben"
    monkeypatch.setenv(catalog.PERSON_VARIABLE, "Dora")
    assert catalog.record_action(layout, named, "tuned", "study").person == "Dora"
    assert catalog.record_action(layout, named, "tuned", "study", person="Eva").person == "Eva"


def test_an_account_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.delenv(catalog.PERSON_VARIABLE, raising=False)
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(getpass, "getuser", nameless)
    assert catalog.person_of(Params()).startswith("user ")


def test_secrets_are_hidden_and_projects_told_apart(tmp_path: Path) -> None:
    shared = Params.model_validate({"catalog": {"url": f"sqlite:///{tmp_path / 'shared.db'}"}})
    mine = catalog.record_action(Layout(tmp_path / "mine"), shared, "released", "s3://me:geheim@host/v1", "token=geheim")
    theirs = catalog.record_action(Layout(tmp_path / "theirs"), shared, "released", "v2")
    assert "geheim" not in mine.subject + mine.reason
    assert catalog.list_actions(Layout(tmp_path / "mine"), shared) == [mine]
    assert catalog.list_actions(Layout(tmp_path / "mine"), shared, everywhere=True) == [mine, theirs]
    assert (mine.project, theirs.project) == ("mine", "theirs")


def test_nothing_is_recorded_where_the_database_fails(tmp_path: Path) -> None:
    nowhere = Params.model_validate({"catalog": {"url": "sqlite:////proc/none/c.db"}})
    with pytest.raises(MeddiffError, match="must answer"):
        catalog.record_action(Layout(tmp_path), nowhere, "tuned", "study")
