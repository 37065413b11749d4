"""Catalogues of both kinds."""

import pytest

from meddiff.params import Params
from meddiff.services import catalog


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def params(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings whose catalogue is a new, empty database of the kind named."""
    monkeypatch.delenv(catalog.URL_VARIABLE, raising=False)
    if request.param == "sqlite":
        return Params()
    return Params.model_validate({"catalog": {"url": request.getfixturevalue("postgres_database")}})
