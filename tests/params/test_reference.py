"""What the documents and the terminal say of the settings."""

from pathlib import Path

import pytest

from meddiff.params import MAIN, Params
from meddiff.params.reference import listing, markdown, settings_of

PAGE = Path(__file__).parents[2] / "docs/reference/settings.md"


def test_the_page_of_the_documents_is_current() -> None:
    assert PAGE.read_text() == markdown(), "meddiff params --markdown > docs/reference/settings.md"


def test_every_setting_has_a_row_with_default_and_what_is_allowed() -> None:
    page, rows = markdown(), {f"{each.section}.{each.name}": each for name in Params.model_fields for each in settings_of(name)}
    assert page.count("\n| `") + page.count("\n| **`") == len(rows) == sum(map(len, Params().model_dump().values()))
    assert page.count("| **`") == sum(map(len, MAIN.values()))
    assert all(each.meaning and each.allowed for each in rows.values())
    assert "finetune.seed" not in rows


@pytest.mark.parametrize(("key", "default", "allowed"), [
    ("prepare.size", "64", "whole number from 32 up to 1024 in steps of 16"),
    ("prepare.fit", "pad", "pad, squash"),
    ("foundation.revision", "null", "text or null"),
    ("finetune.ema_decay", "0.99", "number from 0 below 1"),
    ("generate.feather", "true", "true or false"),
    ("filter.corrosion_radius", "auto", "number from 0 up to 16 or auto"),
    ("segment.arms", "[real, synthetic, combined]", "list of text"),
    ("foundation.channels", "[64, 128]", "list of whole number from 16 in steps of 16"),
    ("benchmark.datasets", "[{name: demo, dataset: demo, path: raw, settings: {}}]", "list of mapping"),
])
def test_defaults_and_bounds_are_told_in_words(key: str, default: str, allowed: str) -> None:
    section, name = key.split(".")
    found = next(each for each in settings_of(section) if each.name == name)
    assert (found.default, found.allowed) == (default, allowed)


def test_a_listing_marks_what_differs_from_the_default() -> None:
    params = Params.model_validate({"generate": {"n": 5}, "tune": {"trials": 20}})
    lines = list(listing(params, ["generate", "tune"], changed=False))
    (marked,) = [line for line in lines if line.startswith("*")]
    assert marked.split()[:5] == ["*", "n", "5", "[default", f"{Params().generate.n};"]
    assert marked.endswith("whole number from 1 up to 1000000] samples to make")
    assert sum(line.startswith("  ") for line in lines) == len(list(settings_of("generate"))) + len(list(settings_of("tune"))) - 1
    assert list(listing(params, list(Params.model_fields), changed=True))[1:] == [marked, ""]
    assert not list(listing(Params(), list(Params.model_fields), changed=True))
