"""What people decided: kept, put back to the byte, and bound to the pair as it was."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from meddiff.cases import image_png, mask_png
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.reviews import current_reviews, decide_pair, put_review, read_reviews
from tests.shards import change, put_batch

SHIPPED = Path(__file__).parents[2] / "reviews.csv"
IDS = [f"s{i}" for i in range(6)]
SAMPLES = pd.DataFrame({"id": IDS, "batch": "b0"})


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    put_batch(layout.synthetic / "b0", [{"id": id} for id in IDS],
              [(np.full((8, 8, 3), 30 * i, np.uint8), np.eye(8, dtype=np.uint8)) for i in range(len(IDS))])
    layout.reviews.write_bytes(SHIPPED.read_bytes())
    return layout


def test_a_decision_is_kept_with_name_and_time_and_taken_back_to_the_byte(layout: Layout) -> None:
    assert read_reviews(layout) == {}
    assert decide_pair(layout, "b0", "s3", "accept", 'Ana "A.",\n\x1b[31mRuiz') is None
    assert decide_pair(layout, "b0", "s1", "reject", "Bo") is None
    rows = read_reviews(layout)
    assert list(rows) == ["s1", "s3"]
    assert rows["s3"].person == 'Ana "A.", [31mRuiz'
    assert pd.Timestamp(rows["s3"].time).tzname() == "UTC"
    earlier = decide_pair(layout, "b0", "s3", "reject", "Bo")
    assert earlier == rows["s3"]
    assert read_reviews(layout)["s3"].decision == "reject"
    put_review(layout, "s3", earlier)
    assert read_reviews(layout) == rows
    for id in rows:
        put_review(layout, id, None)
    assert layout.reviews.read_bytes() == SHIPPED.read_bytes()


def test_a_pair_that_is_painted_anew_or_gone_has_no_decision(layout: Layout) -> None:
    for id in ("s0", "s1", "s2"):
        decide_pair(layout, "b0", id, "accept", "Bo")
    assert current_reviews(layout, SAMPLES) == dict.fromkeys(("s0", "s1", "s2"), "accept")
    change(layout.synthetic / "b0/batch.parquet", "s0", image=image_png(np.full((8, 8, 3), 7, np.uint8)))
    change(layout.synthetic / "b0/batch.parquet", "s1", mask=mask_png(np.ones((8, 8), np.uint8)))
    assert current_reviews(layout, SAMPLES) == {"s0": "outdated", "s1": "outdated", "s2": "accept"}
    assert current_reviews(layout, SAMPLES.head(2))["s2"] == "outdated"
    layout.reviews.unlink()
    assert current_reviews(layout, SAMPLES) == {}


def test_people_who_decide_at_the_same_time_lose_nothing(layout: Layout) -> None:
    with ThreadPoolExecutor(4) as people:
        list(people.map(lambda id: decide_pair(layout, "b0", id, "reject", "Bo"), IDS))
    assert list(read_reviews(layout)) == IDS


@pytest.mark.parametrize(("line", "message"), [
    ("s1,maybe,Bo,t,p\n", "a decision is accept or reject, not `maybe` as for `s1`"),
    ("<<<<<<< HEAD\n", "a decision is accept or reject, not `` as for `<<<<<<< HEAD`"),
    ("s1,accept,Bo,t,p\ns1,reject,Bo,t,p\n", "a pair has one decision, s1 has several"),
])
def test_a_file_that_is_wrong_is_named(layout: Layout, line: str, message: str) -> None:
    layout.reviews.write_text(SHIPPED.read_text() + line)
    with pytest.raises(MeddiffError, match=message):
        read_reviews(layout)


def test_a_table_without_its_columns_is_named(layout: Layout) -> None:
    layout.reviews.write_text("id,decision\n")
    with pytest.raises(MeddiffError, match="the table lacks the column person"):
        read_reviews(layout)
