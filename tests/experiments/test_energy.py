"""The energy counters of a machine: what they sum up to, that they wrap, and machines that don't tell."""

import math
import threading
import time
from pathlib import Path

from meddiff.experiments.benchmark import energy
from meddiff.experiments.benchmark.energy import metered


def put(folder: Path, zone: str, name: str, joules: float, largest: float = 1000) -> None:
    (folder / zone).mkdir(parents=True, exist_ok=True)
    for file, text in {"name": name, "energy_uj": f"{joules * 1e6:.0f}", "max_energy_range_uj": f"{largest * 1e6:.0f}"}.items():
        (folder / "new").write_text(f"{text}\n")
        (folder / "new").replace(folder / zone / file)  # a look meanwhile reads the old text or the new one, never half of it


def test_packages_are_summed_parts_of_them_are_not(tmp_path: Path) -> None:
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1"), ("intel-rapl:0:0", "core"),
                       ("intel-rapl:2", "psys")):
        put(tmp_path, zone, name, 100)
    (tmp_path / "dtpm").mkdir()
    with metered(tmp_path) as joules:
        for zone, name, now in (("intel-rapl:0", "package-0", 130), ("intel-rapl:1", "package-1", 105),
                                ("intel-rapl:0:0", "core", 900), ("intel-rapl:2", "psys", 900)):
            put(tmp_path, zone, name, now)
        assert joules() == 35
        put(tmp_path, "intel-rapl:0", "package-0", 30)
        assert joules() == 35 + 900, "the counter began anew at its range"


def test_the_counters_are_looked_at_while_the_block_runs(tmp_path: Path, monkeypatch) -> None:
    looked, look = threading.Event(), energy._Meter.look

    def tell(meter: energy._Meter) -> float:
        found = look(meter)
        if found == 200:
            looked.set()
        return found

    monkeypatch.setattr(energy._Meter, "look", tell)
    put(tmp_path, "intel-rapl:0", "package-0", 900)
    with metered(tmp_path, every=0.01) as joules:
        put(tmp_path, "intel-rapl:0", "package-0", 100)
        assert looked.wait(60)
        put(tmp_path, "intel-rapl:0", "package-0", 950)
    assert joules() == 200 + 850, "at one look it would be 50"


def test_a_counter_that_fails_once_is_counted_at_the_next_look(tmp_path: Path) -> None:
    put(tmp_path, "intel-rapl:0", "package-0", 100)
    with metered(tmp_path) as joules:
        (tmp_path / "intel-rapl:0/energy_uj").write_text("")
        assert math.isnan(joules())
        put(tmp_path, "intel-rapl:0", "package-0", 130)
        assert joules() == 30


def test_a_gpu_counts_by_its_power(tmp_path: Path, monkeypatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 400.0; echo 100.0\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    begun = time.monotonic()
    with metered(tmp_path) as joules:
        time.sleep(0.2)
    found = joules()
    assert 100 <= found <= 500 * (time.monotonic() - begun)


def test_a_machine_that_tells_nothing_has_no_energy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(energy.shutil, "which", lambda name: None)
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0/name").write_text("package-0\n")  # its counter is for the root user alone
    with metered(tmp_path) as joules:
        assert math.isnan(joules())
