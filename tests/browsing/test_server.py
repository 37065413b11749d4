"""The page over HTTP: what it shows, what it keeps, and whom it turns away."""

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from meddiff.outputs.reviews import read_reviews
from tests.browsing.conftest import Served
from tests.markup import VOID, Checker
from tests.shards import images_of

VOID.update(("input", "link"))


def ids(served: Served) -> list[str]:
    return sorted(images_of(served.layout))


@pytest.fixture(autouse=True)
def undecided(served: Served) -> None:
    served.layout.reviews.unlink(missing_ok=True)


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """With the key as a cookie, as a browser has it after the entry."""
    with httpx.Client(base_url=served.site, follow_redirects=True, trust_env=False) as client:
        assert client.get(served.entry).status_code == 200
        yield client


def decide(client: httpx.Client, served: Served, id: str, decision: str, **more: str) -> httpx.Response:
    return client.post("/decide", data={"id": id, "decision": decision, "show": "all"}, headers={"origin": served.site} | more)


def colours(client: httpx.Client, address: str) -> set[tuple[int, ...]]:
    answer = client.get(address)
    assert answer.headers["content-type"] == "image/png", answer.text
    picture = Image.open(io.BytesIO(answer.content))
    assert min(picture.size) >= 512
    return {tuple(each) for each in np.unique(np.array(picture).reshape(-1, 3), axis=0).tolist()}


def test_only_who_has_the_key_sees_anything(served: Served) -> None:
    for key in ("", "?key=", "?key=wrong", "?key=%FF"):
        answer = httpx.get(f"{served.site}/pairs{key}", trust_env=False)
        assert answer.status_code == 403
        assert "terminal" in answer.text
    assert ids(served)[0] not in answer.text
    assert httpx.get(f"{served.site}/pair.png?id={ids(served)[0]}", trust_env=False).status_code == 403


def test_other_sites_can_neither_read_nor_write(served: Served, client: httpx.Client) -> None:
    id = ids(served)[0]
    assert client.get("/pairs", headers={"host": "evil.example"}).status_code == 400  # a name that was led to this machine
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", served.site.replace("http:", "https:"), ""):
        assert decide(client, served, id, "accept", origin=origin).status_code == 403
    assert client.post("/decide", data={"id": id, "decision": "accept"}).status_code == 403
    assert client.get(f"/decide?id={id}&decision=accept").status_code == 405
    assert read_reviews(served.layout) == {}
    answer = client.get("/pairs")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_decisions_are_kept_lead_on_and_are_taken_back(served: Served, client: httpx.Client) -> None:
    first, second, third = ids(served)[:3]
    answer = decide(client, served, first, "reject")
    assert answer.url.params["id"] == second
    assert (row := read_reviews(served.layout)[first]).decision == "reject"
    assert row.person == "Dr. Test"
    assert f"Undo: {first} was rejected" in answer.text
    assert "1 decision isn&#39;t in the results yet" in answer.text or "1 decision isn't in the results yet" in answer.text
    assert "Rejected</b> by Dr. Test" in client.get(f"/pair?id={first}").text
    decide(client, served, first, "accept")
    assert read_reviews(served.layout)[first].decision == "accept"
    answer = decide(client, served, first, "undo")
    assert answer.url.params["id"] == first
    assert read_reviews(served.layout)[first] == row  # as before the last one
    decide(client, served, first, "undo")
    assert read_reviews(served.layout) == {}
    answer = client.post("/decide", data={"id": second, "decision": "accept", "show": "open"}, headers={"origin": served.site})
    assert answer.url.params["id"] == third
    assert second not in client.get("/pairs?show=open").text
    assert second in client.get("/pairs?show=decided").text


def test_a_near_copy_and_a_quarantined_pair_cannot_be_accepted(served: Served, client: httpx.Client) -> None:
    for id, words in ((ids(served)[3], "near-copy of a real lesion"), (ids(served)[4], "batch failed the quality check")):
        assert words in client.get(f"/pair?id={id}").text
        answer = decide(client, served, id, "accept")
        assert answer.status_code == 404
        assert words in answer.text
        assert decide(client, served, id, "reject").status_code == 200
    assert {row.decision for row in read_reviews(served.layout).values()} == {"reject"}


def test_what_is_not_there_or_not_a_decision_is_said(served: Served, client: httpx.Client) -> None:
    for address in ("/pair?id=<script>", "/pair", "/pair.png?id=../../params", "/test?id=x", f"/test.png?id={'x' * 3}&arm=real"):
        answer = client.get(address)
        assert answer.status_code == 404
        assert "<script>:" not in answer.text
    assert decide(client, served, ids(served)[0], "maybe").status_code == 404
    assert decide(client, served, "nobody", "accept").status_code == 404
    case = served.layout.cases("test") / "images"
    one = next(case.iterdir()).stem
    assert client.get(f"/test.png?id={one}&arm=../real&seed=0").status_code == 404
    assert client.get(f"/test.png?id={one}&arm=real&seed=9").status_code == 404


def test_every_page_is_whole_and_loads_nothing_from_elsewhere(served: Served, client: httpx.Client) -> None:
    test = sorted((served.layout.cases("test") / "images").iterdir())[0].stem
    decide(client, served, ids(served)[0], "accept")
    for address in ("/pairs", "/pairs?show=rejected&page=99", f"/pair?id={ids(served)[0]}", "/tests", "/tests?order=case",
                    f"/test?id={test}&seed=1"):
        answer, checker = client.get(address), Checker()
        assert answer.status_code == 200
        checker.feed(answer.text)
        assert checker.open == [], address
        assert all(reference.startswith("/") for reference in checker.references), address
        for reference in {each for each in checker.references if each != "/decide"}:
            assert client.get(reference).status_code == 200, reference


def test_pictures_have_the_outlines_that_the_key_names(served: Served, client: httpx.Client) -> None:
    id = ids(served)[1]
    invented, final, reference, predicted = (255, 196, 0), (64, 224, 255), (53, 208, 127), (255, 77, 77)
    assert not colours(client, f"/pair.png?id={id}&of=image") & {invented, final}
    assert final in colours(client, f"/pair.png?id={id}&of=masks")
    assert invented in colours(client, f"/pair.png?id={ids(served)[3]}&of=masks")
    assert invented in colours(client, f"/pair.png?id={id}&of=nearest")
    assert not colours(client, f"/pair.png?id={id}&of=background") & {invented, final}
    test = "case_2_000"
    assert colours(client, f"/test.png?id={test}&arm=reference") >= {reference}
    assert colours(client, f"/test.png?id={test}&arm=real&seed=0") >= {reference, predicted}
    assert not colours(client, f"/test.png?id={test}") & {reference, predicted}


def test_the_test_pages_tell_the_dice(served: Served, client: httpx.Client) -> None:
    text = client.get("/tests").text
    assert text.count("0.650") == 6
    assert text.index("case_2_000") < text.index("case_3_000")  # no lesion, no Dice: last
    page = client.get("/test?id=case_2_000&seed=1").text
    for words in ("Dice 0.700 (mean of seeds 0.650)", "Dice 0.500", "real + synthetic images", "small lesion"):
        assert words in page
    assert "no lesion" in client.get("/test?id=case_3_000").text
