import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from meddiff.environment import device_turn, gpu_names, leave_out


def test_packages_that_are_left_out_are_not_found_within_the_block_alone() -> None:
    sys.modules.pop("wave", None)
    with leave_out("wave", "json"):
        with pytest.raises(ImportError):
            importlib.import_module("wave")
        assert importlib.import_module("json") is sys.modules["json"], "what is loaded already stays"
    assert importlib.import_module("wave").__name__ == "wave"


def test_segmenters_load_without_what_monai_would_bring_along() -> None:
    code = ("import sys, meddiff.segmentation.segmenter\nfrom monai.networks.nets import SwinUNETR\n"
            "print([name for name in ('diffusers', 'matplotlib', 'mlflow', 'optuna', 'transformers') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


HOLD = """
import sys, time
from meddiff.environment import device_turn

with device_turn(sys.argv[1], int(sys.argv[2])):
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("runs", [1, 2])
def test_a_device_is_used_by_so_many_at_a_time_and_a_killed_process_gives_it_back(
        runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    holders = [subprocess.Popen([sys.executable, "-c", HOLD, "gpu-x", str(runs)], stdout=subprocess.PIPE, text=True, env=env)
               for _ in range(runs)]
    assert [holder.stdout.readline() for holder in holders if holder.stdout] == ["mine\n"] * runs
    ended = Timer(1.5, holders[0].kill)
    ended.start()
    begun = time.monotonic()
    with device_turn("gpu-x", runs):
        assert time.monotonic() - begun > 1
    assert "waiting for gpu-x, which process" in capsys.readouterr().err
    for holder in holders:
        holder.kill()
        holder.communicate()


def test_gpus_are_those_of_the_driver_that_this_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 1):
        (tmp_path / f"0000:{number}").mkdir()
        (tmp_path / f"0000:{number}/information").write_text(f"Model: \t\t X\nGPU UUID: \t GPU-{number}\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0")
    assert gpu_names("auto", tmp_path) == ("GPU-0", "GPU-1")
    for visible, names in (("1", ("GPU-1",)), ("GPU-1,0", ("GPU-1", "GPU-0")), ("", ()), ("-1", ())):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu_names("auto", tmp_path) == names
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_names("cpu", tmp_path) == gpu_names("cuda", tmp_path / "no driver") == ()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cpu")
    assert gpu_names("auto", tmp_path) == ()
