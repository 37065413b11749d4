"""The page in a real browser: keys decide, lead on and undo, and what was decided is there after a restart."""

from pathlib import Path

import pytest

from meddiff.outputs.reviews import read_reviews
from tests.browsing.chromium import PROGRAM, browser
from tests.browsing.conftest import Served
from tests.shards import images_of

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")


def test_keys_decide_and_undo(served: Served, tmp_path: Path) -> None:
    served.layout.reviews.unlink(missing_ok=True)
    pairs = sorted(images_of(served.layout))
    with browser(tmp_path / "profile") as tab:
        tab.open(served.entry)
        tab.wait("location.pathname === '/pairs' && !location.search")  # the key is gone from the address
        tab.wait("[...document.images].every(image => image.complete && image.naturalWidth >= 512)")
        assert tab.ask("document.querySelectorAll('.sheet img').length") == len(pairs)
        tab.ask("document.querySelector('.sheet a').click()")
        tab.wait(f"document.querySelector('h2')?.innerText === '{pairs[0]}'")
        tab.wait("document.querySelectorAll('.panels img').length === 4")
        tab.wait("[...document.images].every(image => image.complete && image.naturalWidth >= 512)")
        tab.press("r")
        tab.wait(f"document.querySelector('h2').innerText === '{pairs[1]}'")
        assert read_reviews(served.layout)[pairs[0]].decision == "reject"
        tab.press("a")
        tab.wait(f"document.querySelector('h2').innerText === '{pairs[2]}'")
        assert read_reviews(served.layout)[pairs[1]].decision == "accept"
        tab.press("u")
        tab.wait(f"document.querySelector('h2').innerText === '{pairs[1]}'")
        assert list(read_reviews(served.layout)) == [pairs[0]]
        tab.press("ArrowRight")
        tab.wait(f"document.querySelector('h2').innerText === '{pairs[2]}'")
        tab.press("ArrowRight")
        tab.wait(f"document.querySelector('h2').innerText === '{pairs[3]}'")
        tab.press("a")  # a near-copy: the button is off
        tab.press("ArrowLeft")
        tab.wait(f"document.querySelector('h2').innerText === '{pairs[2]}'")
        assert list(read_reviews(served.layout)) == [pairs[0]]
        tab.ask("document.querySelector('a[href=\"/tests\"]').click()")
        tab.wait("location.pathname === '/tests'")
        tab.ask("document.querySelector('td a').click()")
        tab.wait("document.querySelectorAll('.panels img').length === 4")
        tab.wait("[...document.images].every(image => image.complete && image.naturalWidth >= 512)")
        assert "Dice 0." in tab.ask("document.body.innerText")
        before = tab.ask("document.querySelector('h2').innerText")
        tab.press("ArrowRight")
        tab.wait(f"document.querySelector('h2').innerText !== '{before}'")
