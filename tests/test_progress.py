import io
import re
import sys
import time

import pytest

from meddiff.progress import bar, with_progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_bar_with_the_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := _Terminal())
    for name, value in (("TERM", "xterm"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    with bar("fine-tune") as report:
        for step in range(1, 8):
            time.sleep(0.15)
            report(step, 60, {"loss": 0.5})
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "fine-tune" in shown
    assert "7/60" in shown
    assert "loss 0.5" in shown
    assert re.search(r"left 0:00:(0[3-9]|1\d)", shown), "53 steps of 0.15 s, and what sleeping takes longer"
    assert " in 1 s" not in shown


def test_elsewhere_a_long_loop_says_how_far_it_is_now_and_then(capsys: pytest.CaptureFixture[str],
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with bar("fine-tune") as report:
        for step in range(1, 5):
            now[0] += 15.0
            report(step, 4, {"loss": 0.5})
    assert capsys.readouterr().err.splitlines() == ["fine-tune: 2/4 loss 0.5 after 30 s, about 30 s left",
                                                    "fine-tune: 4/4 loss 0.5 in 60 s"]


def test_elsewhere_one_line_closes_it(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("fine-tune") as report:
        for step in range(1, 4):
            report(step, 3, {"loss": 0.25})
            assert capsys.readouterr() == ("", "")
    assert capsys.readouterr() == ("", "fine-tune: 3/3 loss 0.25 in 0 s\n")
    with bar("nothing"):
        pass
    assert capsys.readouterr() == ("", "")


def test_items_are_told_when_they_are_done_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(with_progress("seams", 3, "abc")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "seams: 3/3  in 0 s\n"
    assert list(with_progress("none", 0, "")) == []
    rest = with_progress("stopped", 3, "abc")
    assert [next(rest), next(rest)] == ["a", "b"]
    rest.close()
