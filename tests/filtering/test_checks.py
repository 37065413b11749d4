"""Every expectation on a batch holds for a sound table and fails for the fault it is there for."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Great Expectations imports modules that Python 3.11 deprecates
    from meddiff.filtering.checks import BatchVerdict, check_batches, expectations

from meddiff.params import FilterParams

PARAMS = FilterParams(min_contrast=2.0, min_acceptance=0.25)
SIZE, N = 64, 20

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def table(**columns: Any) -> pd.DataFrame:
    """A sound batch of `N` samples, then `columns` set."""
    frame = pd.DataFrame({"id": [f"s{i}" for i in range(N)], "image_sha256": [f"{i:064x}" for i in range(N)], "mode": "RGB",
                          "width": SIZE, "height": SIZE, "mask_width": SIZE, "mask_height": SIZE, "image_range": 200, "area": 0.1,
                          "components": 1, "contrast": 20.0, "similarity": 0.5, "agreement": 0.8, "accepted": [1, 0] * (N // 2)})
    return frame.assign(**columns)


def few(n: int, wrong: Any, sound: Any) -> list[Any]:
    return [wrong] * n + [sound] * (N - n)


FAULTS: dict[str, Callable[[], pd.DataFrame]] = {
    "unique ids": lambda: table(id=["s0", *(f"s{i}" for i in range(N - 1))]),
    "repeated images": lambda: table(image_sha256=few(2, "a", "b")),
    "image mode": lambda: table(mode=few(1, "L", "RGB")),
    "image size": lambda: table(height=few(1, 63, SIZE)),
    "mask size": lambda: table(mask_width=few(1, 128, SIZE)),
    "gray range": lambda: table(image_range=few(2, 3, 200)),
    "mask area": lambda: table(area=few(2, 0.0, 0.1)),
    "mask components": lambda: table(components=few(3, 9, 1)),
    "contrast": lambda: table(contrast=few(11, 1.0, 20.0)),
    "similarity": lambda: table(similarity=few(1, float("nan"), 0.5)),
    "agreement": lambda: table(agreement=few(1, 1.5, 0.5)),
    "acceptance": lambda: table(accepted=few(4, 1, 0)),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BatchVerdict]:
    docs = tmp_path_factory.mktemp("docs") / "site"
    found = check_batches({"sound": table(), **{name: make() for name, make in FAULTS.items()}}, PARAMS, SIZE, docs)
    assert (docs / "index.html").is_file()
    assert len(list((docs / "validations").rglob("*.html"))) == len(FAULTS) + 1
    return {verdict.batch: verdict for verdict in found}


def test_a_sound_batch_passes(verdicts: dict[str, BatchVerdict]) -> None:
    sound = verdicts["sound"]
    assert sound.passed
    assert sound.failures == ()
    assert len(sound.findings) == sound.statistics["evaluated_expectations"] == len(expectations(PARAMS, SIZE))
    assert all(finding.passed and finding.rule and finding.observed for finding in sound.findings)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_fails_its_expectation(fault: str, verdicts: dict[str, BatchVerdict]) -> None:
    verdict = verdicts[fault]
    assert not verdict.passed
    assert set(verdict.failures) == ({fault, "repeated images"} if fault == "repeated images" else {fault})
    assert verdict.statistics["unsuccessful_expectations"] == 1


def test_every_expectation_has_its_fault() -> None:
    assert {expectation.meta["name"] for expectation in expectations(PARAMS, SIZE)} == set(FAULTS)


def test_a_finding_says_what_was_found(verdicts: dict[str, BatchVerdict]) -> None:
    (found,) = (finding for finding in verdicts["mask area"].findings if not finding.passed)
    assert found.rule == "Masks cover 0.1% to 90% of the image in at least 95% of the samples"
    assert found.observed == "2 of 20 samples otherwise, such as 0"
    (found,) = (finding for finding in verdicts["acceptance"].findings if not finding.passed)
    assert found.observed == "0.2"


def test_what_a_sound_generator_may_miss_now_and_then_passes(tmp_path: Path) -> None:
    tolerable = table(image_range=few(1, 3, 200), area=few(1, 0.0, 0.1), components=few(2, 9, 1), contrast=few(9, 0.0, 20.0))
    (verdict,) = check_batches({"b": tolerable}, PARAMS, SIZE, tmp_path / "docs")
    assert verdict.passed


def test_a_check_that_cannot_run_is_a_failure(tmp_path: Path) -> None:
    (verdict,) = check_batches({"b": table().drop(columns="area")}, PARAMS, SIZE, tmp_path / "docs")
    assert verdict.failures == ("mask area",)
    assert "could not be checked" in next(finding.observed for finding in verdict.findings if not finding.passed)


def test_nothing_is_printed_and_analytics_are_off(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check_batches({"b": table()}, PARAMS, SIZE, tmp_path / "docs")
    assert capfd.readouterr() == ("", "")
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def test_as_many_parts_pass_as_the_training_masks_have(tmp_path: Any) -> None:
    batch = {"b": table(components=few(3, 5, 1))}
    assert [check_batches(batch, PARAMS, SIZE, tmp_path / str(n), n)[0].passed for n in (3, 5)] == [False, True]
