"""Commands as users call them: in processes of their own where start-up, exit codes or signals matter."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import meddiff
from meddiff.__main__ import main
from meddiff.cli.app import app
from meddiff.delivery.promote import Decision
from meddiff.errors import MeddiffError
from meddiff.layout import STAGES, Layout
from meddiff.params import Params
from meddiff.params.file import load_params, write_params
from meddiff.services import tracking

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "mlflow", "prefect", "great_expectations", "dvc", "monai", "pandas", "sqlalchemy", "boto3", "optuna",
         "diffusers", "numpy")

Run = Callable[..., Any]


def command(cwd: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "meddiff", *words], cwd=cwd, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **env})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run() -> Run:
    return lambda *words: CliRunner().invoke(app, list(words), catch_exceptions=False)


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = ("import sys; sys.argv = ['meddiff', '--help']\nfrom meddiff.__main__ import main\n"
            f"try: main()\nfinally: print([name for name in {HEAVY} if name in sys.modules])")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    commands = (*STAGES, "init", "params", "profile", "promote", "tune", "ablate", "catalog", "release", "ui")
    assert all(f"\n  {name} " in done.stdout for name in commands)


def test_each_stage_has_a_command(project: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr("meddiff.stages.runner.execute", lambda stage, root: ran.append((stage, root)))
    for stage in STAGES:
        assert run(stage).exit_code == 0
    assert ran == [(stage, project) for stage in STAGES]


def test_an_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = command(tmp_path, "prepare")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("meddiff: ")
    assert "params.yaml: the settings file must be there. Work in" in line
    (tmp_path / "params.yaml").write_text("prepare:\n  sise: 3\n")
    assert "prepare.sise" in command(tmp_path, "prepare").stderr
    assert command(tmp_path, "unknown").returncode == 2
    assert not (tmp_path / ".work").exists()


def test_errors_of_several_lines_are_told_in_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise MeddiffError("a\nb", "rule", "remedy")

    monkeypatch.setattr("meddiff.cli.app.app", fail)
    monkeypatch.setattr(signal, "signal", lambda *given: None)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == "meddiff: a b: rule. remedy.\n"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_one_line_and_exit_code_130(tmp_path: Path, sent: signal.Signals) -> None:
    code = ("import signal, time, types, sys\nimport meddiff.stages.runner as s\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a script's background jobs inherit that it is ignored
            "def wait(stage, root):\n    print('here', flush=True)\n    time.sleep(30)\n"
            "s.execute = wait\nsys.argv = ['meddiff', 'prepare']\nfrom meddiff.__main__ import main\nmain()")
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        process.send_signal(sent)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told == "meddiff: interrupted; the same command goes on where it stopped\n"


def ten_cases(folder: Path) -> None:
    for kind, value in (("images", 90), ("masks", 255)):
        (folder / kind).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (32, 32), value).save(folder / f"{kind}/{i}.png")


def test_init_finds_the_layout_counts_and_tells_every_fault(project: Path, run: Run) -> None:
    for i in range(25):
        for folder in ("images", "labels"):
            (project / f"raw/{folder}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), 90 + i).save(project / f"raw/images/{i:02d}.jpg")
        Image.new("L", (32, 32), 255 if i else 0).save(project / f"raw/labels/{i:02d}_mask.png")
    (project / "raw/notes.docx").write_text("")
    before = (project / "params.yaml").read_text()
    done = run("init", "--path", "raw", "--n-labelled", "2", "--size", "32")
    lines = done.stdout.splitlines()
    assert lines[:3] == [f"{project}/raw is read as `folder`", "taken for images: images/*.jpg (25)",
                         "taken for masks: labels/*_mask.png (25)"]
    assert "25 images, 24 with a lesion mask, 0 declared lesion-free, 1 without annotation, 25 groups" in lines
    assert "masks that hold nothing: 1 (00); the images count as not annotated, see `prepare.empty_masks`" in lines
    assert any(line.startswith("1 file isn't read (notes.docx)") for line in lines)
    assert load_params(project / "params.yaml").prepare.dataset == "folder"
    (project / "params.yaml").write_text(before)
    for i in range(23):
        (project / f"raw/labels/{i:02d}_mask.png").write_bytes(b"no picture")
    with pytest.raises(MeddiffError, match="images and masks must be readable, 23 of 25 aren't, as told above"):
        run("init", "--path", "raw")
    (project / "raw/coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(MeddiffError, match="can be read as `folder` or as `coco`"):
        run("init", "--path", "raw")
    with pytest.raises(MeddiffError, match="--path: the folder of the dataset must be given"):
        run("init")
    assert (project / "params.yaml").read_text() == before


def test_init_writes_though_nobody_reads_to_the_end(project: Path) -> None:
    ten_cases(project / "raw")
    line = f"{sys.executable} -u -m meddiff init --path raw --n-labelled 3 2>&1 | head -1"
    done = subprocess.run(line, shell=True, cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout
    assert load_params(project / "params.yaml").prepare.n_labelled == 3


def test_init_says_that_there_are_fewer_annotated_images(project: Path, run: Run) -> None:
    ten_cases(project / "raw")
    done = run("init", "--path", "raw", "--n-labelled", "5000")
    assert "n_labelled: 5000 is more than the 6 annotated training images there will be, all are used" in done.stdout


def test_init_takes_a_pretrained_encoder_where_images_are_large(project: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ten_cases(project / "raw")
    run("init", "--path", "raw", "--size", "96")
    small = load_params(project / "params.yaml")
    assert (small.segment.network, small.segment.steps, small.backgrounds.finder_steps) == ("unet", 1500, 1000)
    shutil.copytree(project / "raw", project / "other")
    done = run("init", "--path", "other", "--size", "128", "--n-labelled", "3")
    assert "segment.network: encoder_unet, since from 128 pixels on a pretrained encoder is better" in done.stdout
    assert "pip install" not in done.stdout
    fine = load_params(project / "params.yaml")
    assert (fine.segment.network, fine.segment.steps) == ("encoder_unet", 800)
    assert fine.segment.arms == ("real", "self_training", "synthetic", "combined")
    assert (fine.backgrounds.finder_network, fine.backgrounds.finder_steps) == ("encoder_unet", 400)
    write_params(project / "params.yaml", {"segment": {"network": "segresnet", "steps": 700}})
    assert "segment.network" not in run("init", "--path", "raw", "--size", "256").stdout
    write_params(project / "params.yaml", {"segment": {"network": "unet", "steps": 700}})
    monkeypatch.setattr("meddiff.cli.settings.find_spec", lambda name: None)
    assert "first: pip install 'meddiff[encoder]'" in run("init", "--path", "raw", "--size", "256").stdout
    by_hand = load_params(project / "params.yaml")
    assert (by_hand.segment.network, by_hand.segment.steps) == ("encoder_unet", 800)


def test_init_says_how_a_split_is_completed(project: Path, run: Run) -> None:
    for kind, value in (("images", 90), ("masks", 255)):
        for i in range(10):
            file = project / f"raw/{'train' if i < 8 else 'test'}/{kind}/{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (32, 32), value).save(file)
    done = run("init", "--path", "raw", "--n-labelled", "3")
    assert "split by the dataset: 2 test; `prepare` divides the other 8 by groups\n" in done.stdout
    assert "annotated training images there will be" not in done.stdout
    assert load_params(project / "params.yaml").segment.arms == ("real", "synthetic", "combined"), "annotations are left over"


def test_init_checks_the_folder_and_keeps_comments(project: Path, run: Run) -> None:
    for folder in ("images", "masks", "normal"):
        (project / f"raw/{folder}").mkdir(parents=True)
    for i in range(3):
        Image.new("L", (32, 32), 90).save(project / f"raw/images/{i}.png")
        Image.new("L", (32, 32), 255).save(project / f"raw/masks/{i}.png")
        Image.new("L", (32, 32), 80).save(project / f"raw/normal/n{i}.png")
    (project / "raw/unlabelled").mkdir()
    Image.new("L", (32, 32), 70).save(project / "raw/unlabelled/u.png")
    before = (project / "params.yaml").read_text()
    done = run("init", "--dataset", "folder", "--path", "raw", "--n-labelled", "2", "--size", "32")
    assert done.exit_code == 0
    assert "7 images, 3 with a lesion mask, 3 declared lesion-free, 1 without annotation" in done.stdout
    assert done.stdout.endswith("next: meddiff repro\n")
    after = (project / "params.yaml").read_text()
    wanted = {"dataset": "folder", "path": f"{project}/raw", "n_labelled": 2, "size": 32}
    assert yaml.safe_load(after)["prepare"] == yaml.safe_load(before)["prepare"] | wanted
    values = yaml.safe_load(after)
    assert (values["segment"]["steps"], values["backgrounds"]["finder_steps"], values["generate"]["n"]) == (1500, 1000, 300)
    assert (values["foundation"]["steps"], values["mask_model"]["steps"], values["finetune"]["steps"]) == (100, 200, 200)
    assert "params.yaml now says segment.steps: 1500" in done.stdout
    assert values["segment"]["arms"] == ["real", "synthetic", "combined"]
    assert "segment.arms" not in done.stdout, "they are the demo's, too"
    assert values["benchmark"]["datasets"] == [{"name": "raw", "dataset": "folder", "path": f"{project}/raw"}]
    assert len(set(after.splitlines()) - set(before.splitlines())) == 14  # the section `benchmark` is new
    assert run("init", "--dataset", "demo").exit_code == 0
    assert load_params(project / "params.yaml").benchmark == Params().benchmark
    assert yaml.safe_load((project / "params.yaml").read_text())["prepare"]["path"] == "raw"
    (project / "params.yaml").write_text(after)
    shutil.move(project / "raw/unlabelled", project / "unlabelled")
    assert run("init", "--dataset", "folder", "--path", "raw").exit_code == 0
    assert (project / "params.yaml").read_text() == after, "what was chosen stays"
    (project / "params.yaml").write_text(before)
    assert run("init", "--dataset", "folder", "--path", "raw").exit_code == 0
    alone = yaml.safe_load((project / "params.yaml").read_text())
    assert alone["segment"] == values["segment"] | {"arms": ["real", "synthetic"]}
    assert alone["prepare"]["n_labelled"] == 40
    shutil.copytree(project / "raw", project / "other")
    for i in (3, 4):
        Image.new("L", (32, 32), 90).save(project / f"other/images/{i}.png")
        Image.new("L", (32, 32), 255).save(project / f"other/masks/{i}.png")
    done = run("init", "--dataset", "folder", "--path", "other", "--n-labelled", "2")
    assert "segment.arms: real, synthetic, combined, since there are training images" in done.stdout, "two of three are used"
    (project / "params.yaml").write_text(after)
    with pytest.raises(MeddiffError, match="must be there"):
        run("init", "--dataset", "busi", "--path", "nowhere")
    with pytest.raises(MeddiffError, match="--path"):
        run("init", "--dataset", "busi")
    with pytest.raises(MeddiffError, match="layout tells one class"):
        run("init", "--dataset", "ph2", "--path", "raw", "--classes", "nevus, melanoma")
    with pytest.raises(MeddiffError, match=r"prepare\.dataset"):
        run("init", "--dataset", "other", "--path", "raw")
    assert (project / "params.yaml").read_text() == after


def test_profile_writes_the_papers_settings(project: Path, run: Run) -> None:
    done = run("profile", "paper")
    assert done.exit_code == 0
    assert "finetune.learning_rate: 3.0e-06\n" in done.stdout
    assert yaml.safe_load((project / "params.yaml").read_text())["prepare"]["size"] == 512
    with pytest.raises(MeddiffError, match=r"Choose one of: .*paper"):
        run("profile", "papers")


def test_params_lists_all_settings_without_torch(project: Path) -> None:
    (project / "params.yaml").write_text("generate: {n: 7, rim: 3}\n")
    code = ("import sys; sys.argv = ['meddiff', 'params', 'generate']\nfrom meddiff.__main__ import main\n"
            f"try: main()\nfinally: print([name for name in {HEAVY} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=True)
    *lines, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert [line.split()[1] for line in lines if line.startswith("* ")] == ["n", "rim"]
    assert any(line.split()[:2] == ["guidance_scale", "1.0"] for line in lines)


def test_params_shows_changes_a_page_and_one_section(project: Path, run: Run) -> None:
    assert run("params", "--changed").stdout == ""
    assert run("params").stdout.count("\n  ") == sum(map(len, Params().model_dump().values()))
    assert run("params", "--markdown").stdout == (ROOT / "docs/reference/settings.md").read_text()
    with pytest.raises(MeddiffError, match=r"there is no such section of settings\. Choose one of: prepare, "):
        run("params", "generator")


def test_params_upgrades_an_old_file(project: Path, run: Run) -> None:
    old = "prepare: {demo_seed: 4, n_labelled: 9}\nfinetune: {precision: float32, seed: 0}\n"
    (project / "params.yaml").write_text(old)
    with pytest.raises(MeddiffError, match="`meddiff params --upgrade`"):
        run("params")
    assert "not kept: prepare.demo_seed was 4" in run("params", "--upgrade").stdout
    assert load_params(project / "params.yaml") == Params.model_validate({"prepare": {"n_labelled": 9}})
    assert (project / ".work/params.old.yaml").read_text() == old


def test_promotion_that_is_refused_ends_with_1(project: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def promote(layout: Layout, params: object, version: str | None, kind: object, evidence: str, reason: str) -> Decision:
        asked.append((version, evidence, reason))
        return Decision(version is None, ("ok: gain",), version or "7")

    monkeypatch.setattr("meddiff.delivery.promote.promote", promote)
    monkeypatch.setattr("meddiff.delivery.promote.rollback", lambda layout, params, kind, reason: Decision(True, ("back",), "3"))
    assert run("promote").stdout == "ok: gain\nmeddiff-generator version 7 is the champion\n"
    refused = run("promote", "--version", "4", "--evidence", "ab12", "--reason", "better")
    assert (refused.exit_code, refused.stdout) == (1, "ok: gain\nmeddiff-generator version 4 is refused\n")
    assert "version 3 is the champion" in run("promote", "--rollback").stdout
    assert asked == [(None, "", ""), ("4", "ab12", "better")]


def test_samples_of_a_registered_model_from_any_folder(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def sample(layout: Layout, params: object, model: str, seeds: range, out: Path, guidance: float, report: object) -> int:
        asked.append((layout.root, model, seeds, out, guidance))
        return len(seeds)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("meddiff.delivery.sampling.sample_registered", sample)
    assert run("generate", "--model", "models:/m@champion", "-n", "5", "--out", "new", "--seed", "9", "--guidance", "2").stdout
    assert asked == [(ROOT, "models:/m@champion", range(9, 14), Path("new"), 2.0)]
    with pytest.raises(MeddiffError, match="--out"):
        run("generate", "--model", "models:/m@champion")
    with pytest.raises(MeddiffError, match="--model"):
        run("generate", "--out", "new")


def test_the_page_of_runs_is_a_command_on_loopback(project: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    started, addresses = list[list[str]](), list[str]()

    class Server:
        pid = 0

        def __init__(self, words: list[str], env: dict[str, str], **given: object) -> None:
            started.append(words)
            addresses.append(env["MLFLOW_BACKEND_STORE_URI"])
            self.returncode = len(started) - 1

        def __enter__(self) -> "Server":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(subprocess, "Popen", Server)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr("meddiff.environment.require_port", lambda port, flag: None)
    monkeypatch.setattr("meddiff.services.tracking.connect", lambda layout, settings: SimpleNamespace(experiment="7"))
    page = "/#/experiments/7/runs?viewStateShareKey=meddiff"
    assert f"http://127.0.0.1:5055{page}" in run("ui", "--port", "5055").stdout
    assert addresses == [f"sqlite:///{project}/.work/mlflow.db"]
    assert started[0][started[0].index("--host") + 1] == "127.0.0.1"
    with pytest.raises(MeddiffError, match="port 5056"):
        run("ui", "--port", "5056")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert run("ui").stdout == f"the runs are at http://server:5000{page}\n"
    assert len(started) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:SECRET@server:5000")
    assert run("ui").stdout == f"the runs are at http://u:***@server:5000{page}\n"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:SECRET@server/x")
    with pytest.raises(MeddiffError, match="port 5000"):
        run("ui")
    assert "SECRET" not in " ".join(started[2])
    assert addresses[2] == "postgresql://u:SECRET@server/x"


def test_the_page_of_the_runs_stays_on_loopback(project: Path) -> None:
    done = command(project, "ui", "--host", "0.0.0.0", MLFLOW_TRACKING_URI="")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--tuning alone" in " ".join(done.stderr.replace("│", " ").split())


def test_a_taken_port_is_one_line_and_no_success(project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command(project, "ui", "--port", str(port), MLFLOW_TRACKING_URI="")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"meddiff: port {port}: the port must be free, it is taken by python")
    assert "--port" in line


def test_the_version_is_told(tmp_path: Path) -> None:
    done = command(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"meddiff {meddiff.__version__}\n")


def test_catalogue_release_and_tune_reach_their_modules(project: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeddiffError, match="synthetic"):
        run("catalog", "rebuild")
    with pytest.raises(MeddiffError, match="catalog rebuild"):
        run("catalog", "list", "--status", "accepted")
    with pytest.raises(MeddiffError, match="no such sample"):
        run("catalog", "show", "s1")
    with pytest.raises(MeddiffError, match="s3://BUCKET"):
        run("release", "publish", "v1", "bucket")
    with pytest.raises(MeddiffError, match="s3://BUCKET"):
        run("release", "fetch", "v1", "bucket", "--out", "x")
    with pytest.raises(MeddiffError, match="s3://BUCKET"):
        run("release", "list", "bucket")
    from meddiff.experiments.run import Outcome
    from meddiff.experiments.tuning import search as tune
    from meddiff.experiments.tuning.trials import TrialRow

    outcome = Outcome({"synthetic": {0: 0.75}}, 10, 5, {}, (), 3.0, 90.0)
    row = TrialRow(0, {"filter.corrosion_radius": 1.5}, 0.75, 0.01, 12.0, outcome)
    result = tune.TuneResult("s", (row, row), row, "it has the best Dice", 0.75, "--- a\n", Path("best.diff"))
    monkeypatch.setattr(tune, "tune", lambda layout, params, trials: result)
    shown = run("tune", "--trials", "2").stdout
    assert shown.count("filter.corrosion_radius 1.5") == 2
    assert "proposed: trial 0, validation Dice 0.7500: it has the best Dice\n" in shown
    assert "--- a\napply it with: patch -p1 < best.diff" in shown


def test_the_audit_log_is_a_command(project: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from meddiff.services import catalog

    monkeypatch.delenv(catalog.URL_VARIABLE, raising=False)
    layout, params = Layout(project), load_params(project / "params.yaml")
    catalog.record_action(layout, params, "promoted", "meddiff-segmenter 3", "better\nmuch", "2", "3", person="Ana")
    catalog.record_action(layout, params, "released", "file:///r/v1", person="Ben")
    first, second = run("audit").stdout.splitlines()
    assert first.endswith(" UTC  Ana promoted meddiff-segmenter 3 (2 -> 3): better; much")
    assert second.endswith(" UTC  Ben released file:///r/v1")
    assert run("audit", "segmenter", "--all").stdout.splitlines() == [first.replace("Ana", f"{project.name}: Ana")]


def test_a_stage_that_fails_brings_back_what_dvc_removed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from meddiff.stages import runner

    restored: list[Any] = []
    monkeypatch.setattr("meddiff.services.versioning.restore_outs", lambda root, stage: restored.append((root, stage)))
    monkeypatch.setattr(tracking, "stage_run", lambda *given: pytest.fail("the settings come first"))
    (project / "params.yaml").write_text("nothing: 1\n")
    monkeypatch.setenv("DVC_STAGE", "prepare")
    with pytest.raises(MeddiffError, match="nothing"):
        runner.execute("prepare", project)
    assert restored == [(project, "prepare")]
    monkeypatch.delenv("DVC_STAGE")
    with pytest.raises(MeddiffError):
        runner.execute("prepare", project)
    assert len(restored) == 1
