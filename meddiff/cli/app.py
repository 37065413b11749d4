"""Commands. Each imports what it needs when it runs, so that `--help` answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from meddiff import __version__
from meddiff.cli.data import catalog_app, export_app, release_app
from meddiff.cli.lineage import lineage, withdraw
from meddiff.cli.project import any_project, project, project_root
from meddiff.cli.registry import audit, promote_model, webhook_app
from meddiff.cli.settings import init, params, profile
from meddiff.cli.state import backup, restore
from meddiff.cli.tuning import tune_settings
from meddiff.cli.upkeep import doctor, gc
from meddiff.errors import MeddiffError, redacted, some
from meddiff.layout import STAGES

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"meddiff {__version__}")
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True,
                                                help="Show the version, and end.")] = False) -> None:
    """Guided synthesis of annotated medical images, and what it gains. `dvc repro` runs the whole chain."""


for _command in (init, params, profile, lineage, withdraw, audit, doctor, gc, backup, restore):
    app.command()(_command)
app.command("promote")(promote_model)
app.command("tune")(tune_settings)
app.add_typer(catalog_app, name="catalog")
app.add_typer(release_app, name="release")
app.add_typer(export_app, name="export")
app.add_typer(webhook_app, name="webhook")

STAGE_HELP = {
    "prepare": "Stage: decode, check, resize and split the raw dataset.",
    "foundation": "Stage: load or pretrain the inpainting model.",
    "backgrounds": "Stage: make the images that lesions are painted into.",
    "mask_model": "Stage: train the diffusion model that invents masks.",
    "finetune": "Stage: teach the foundation the lesions of the annotated cases.",
    "filter": "Stage: score, accept or reject samples, and tighten their masks.",
    "segment": "Stage: train the segmenters that are compared.",
    "evaluate": "Stage: measure them on the test data and write the report.",
}


def _add_stage(stage: str) -> None:
    @app.command(stage, help=STAGE_HELP[stage])
    def command() -> None:
        from meddiff.stages.runner import execute

        execute(stage, Path.cwd())


@app.command()
def generate(
    model: Annotated[str | None, typer.Option(help="A registered model, such as models:/meddiff-generator@champion.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="With --model: samples to make.")] = 16,
    out: Annotated[Path | None, typer.Option(help="With --model: a new or empty folder.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --model: the first sample's seed; the others follow.")] = 0,
    guidance: Annotated[float | None, typer.Option(min=1, max=20, help="With --model: if not the model's own.")] = None,
) -> None:
    """Stage: paint invented lesions into the backgrounds. With --model: unfiltered samples of a registered model, anywhere."""
    if model is None:
        if out is not None or guidance is not None:
            raise MeddiffError("--model", "--out and --guidance are for a registered model", "Add --model, or use params.yaml")
        from meddiff.stages.runner import execute

        execute("generate", Path.cwd())
        return
    if out is None:
        raise MeddiffError("--out", "a folder for the samples must be given", "Add --out DIR")
    from meddiff.delivery.sampling import sample_registered
    from meddiff.progress import bar

    layout, params = any_project()
    with bar("sample") as report:
        made = sample_registered(layout, params, model, range(seed, seed + n), out, guidance, report)
    print(f"{made} samples in {out}: images/, masks/, samples.csv")
    print("unfiltered: bad ones and near-copies of real lesions are among them; accepted pairs come from `meddiff export folder`")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def repro(context: typer.Context) -> None:
    """`dvc repro`, with its options, sooner: the stages share one process that has the heavy libraries loaded."""
    from meddiff.cli.repro import run_repro

    raise typer.Exit(run_repro(project_root(), context.args))


@app.command()
def worker(
    address: Annotated[str, typer.Argument(help="Of a Dask scheduler, such as tcp://HOST:8786.")],
    name: Annotated[str | None, typer.Option(help="Shown in the scheduler's pages.")] = None,
) -> None:
    """Do units of work for the projects whose compute.cluster is this scheduler; ends with it."""
    from meddiff.cluster import serve_units

    serve_units(address, name)


@app.command("predict")
def predict_pictures(
    path: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures, nested too.")],
    model: Annotated[str, typer.Option(help="models:/meddiff-segmenter@champion, or a folder such as models/segmenters/ARM.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder, or that of an earlier call, which then goes on.")],
    flips: Annotated[bool, typer.Option("--flips", help="Average over mirrored images too: slower, a little steadier.")] = False,
) -> None:
    """Segment pictures of any size by the segmenters of an arm; works from any folder."""
    import sys

    from meddiff.delivery.predicting import predict_files
    from meddiff.progress import bar, tell

    layout, params = any_project()
    with bar("predict") as report:
        made = predict_files(layout, params, model, path, out, flips, report)
    if made.passed:
        tell("predict", [f"{len(made.passed)} files aren't read: {some(file.name for file in made.passed)}"])
    kept = f", {made.kept} were there before" if made.kept else ""
    print(f"{made.done} images predicted{kept}, in {out}: masks/, overlays/, predictions.csv")
    print("research use only: no medical device")
    for fault in made.faults:
        print(f"meddiff: {' '.join(str(fault).split())}", file=sys.stderr)
    if made.faults:
        raise typer.Exit(1)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Of the page.")] = 5000,
    tuning: Annotated[bool, typer.Option("--tuning", help="Optuna's dashboard on the studies of `meddiff tune`.")] = False,
    host: Annotated[str | None, typer.Option(help="Address for --tuning, else 127.0.0.1; one that other machines reach needs "
                                             "MEDDIFF_STUDIES_PASSWORD.")] = None,
) -> None:
    """Open MLflow on this project's runs."""
    import os
    import signal
    import subprocess
    from contextlib import suppress

    from meddiff.environment import require_port
    from meddiff.services.tracking import connect, runs_page, tracking_uri, ui_command

    layout, params = project()
    if tuning:
        from meddiff.experiments.tuning.dashboard import serve_studies

        host = host or "127.0.0.1"
        print(f"the studies are at http://{host}:{port} - end with Ctrl-C", flush=True)
        serve_studies(layout, params, port, host)
        return
    if host:
        raise typer.BadParameter("it is for --tuning alone; the page of the runs asks for no password and stays on 127.0.0.1; "
                                 "for others there is `make platform PROFILE=team`", param_hint="--host")
    command, address = ui_command(layout, params.tracking, port), tracking_uri(layout, params.tracking)
    if not command:
        with suppress(MeddiffError):  # where it doesn't answer its address alone
            address = runs_page(address, connect(layout, params.tracking).experiment)
        print(f"the runs are at {redacted(address)}")
        return
    require_port(port, "--port")
    page = runs_page(f"http://127.0.0.1:{port}", connect(layout, params.tracking).experiment)
    print(f"the runs will be at {page} in some seconds - end with Ctrl-C", flush=True)
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": address}
    stopped = list[int]()
    with subprocess.Popen(command, env=env, start_new_session=True) as server:

        def stop(number: int, _frame: object) -> None:
            stopped.append(number)
            os.killpg(server.pid, signal.SIGTERM)  # MLflow's own processes too

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
    if server.returncode and not stopped:
        raise MeddiffError(f"port {port}", "MLflow must start; the lines above say why it didn't", "Choose another by --port")


@app.command("browse")
def browse_project(
    port: Annotated[int, typer.Option(min=0, help="On 127.0.0.1; 0: any free one.")] = 8765,
    name: Annotated[str | None, typer.Option(help="Who decides; that of git, else of the login, if not given.")] = None,
) -> None:
    """Look at synthetic pairs and test predictions in a browser; accept or reject pairs by hand."""
    import getpass
    import secrets

    from meddiff.browsing.server import bind, browse_app, serve_page
    from meddiff.services.versioning import git_user

    layout, params = project()
    place, key = bind(port), secrets.token_urlsafe(16)
    print(f"open http://127.0.0.1:{place.getsockname()[1]}/?key={key} - end with Ctrl-C", flush=True)
    serve_page(browse_app(layout, params.prepare.classes, name or git_user(layout.root) or getpass.getuser(), key), place)


@app.command("ablate")
def ablate_parts(
    parts: Annotated[str | None, typer.Option(help="Names with commas between; else ablate.parts, else all.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the project; the current one if not given.")] = None,
    names: Annotated[bool, typer.Option("--list", help="Only list the parts and the settings that switch them.")] = False,
) -> None:
    """The full method, then each part switched in turn; a table by validation Dice, pictures, and exit code 1 if one fails."""
    from meddiff.experiments.ablation.parts import PARTS

    if names:
        for part in PARTS:
            beside = f"; beside {part.reference}" if part.beside else ""
            print(f"{part.name:>20}  {part.shows} ({', '.join(f'{key}: {value}' for key, value in part.off.items())}{beside})")
        return
    from meddiff.experiments.ablation import ablation
    from meddiff.experiments.ablation.comparison import row_words

    layout, params = project(root)
    result = ablation.ablate(layout, params, [name.strip() for name in parts.split(",")] if parts else [])
    print(f"{'variant':>20} {'dice':>7} {'difference [points]':>24} {'accepted':>12} {'seconds':>8}")
    for row in result.rows:
        name, _, dice, difference, accepted, seconds = row_words(row)
        print(f"{name:>20} " + (f"failed: {row.error}" if row.error else
                                f"{dice:>7} {difference:>24} {accepted:>12} {seconds:>8}"))
    for note in result.notes:
        print(note)
    print(f"table and pictures: {result.page.parent}")
    if result.failed:
        raise typer.Exit(1)


@app.command("benchmark")
def benchmark_gain(
    workers: Annotated[int | None, typer.Option(min=1, help="Cells at the same time, each in a process of this machine: "
                                                "compute.cluster is local:N.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the project; the current one if not given.")] = None,
    page: Annotated[bool, typer.Option("--page", help="Only write the page anew from the cells that are finished.")] = False,
) -> None:
    """Prove the gain: all datasets, label budgets and seeds of params.yaml, on test data; goes on where it stopped."""
    from meddiff.experiments.benchmark import benchmark as benchmarking

    layout, params = project(root)
    if workers:
        params = params.model_copy(update={"compute": params.compute.model_copy(update={"cluster": f"local:{workers}"})})
    result = benchmarking.report(layout, params, {}) if page else benchmarking.benchmark(layout, params)
    print("\n".join(benchmarking.lines_of(result)))
    if result.missing:
        raise typer.Exit(1)


@app.command("advise")
def advise_arm(
    budgets: Annotated[str | None, typer.Option(help="Numbers of annotated training cases with commas between, such as "
                                                "10,20,40,80: the real arm is trained with each.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the project; the current one if not given.")] = None,
) -> None:
    """Which arm to use on this dataset, and how many more annotated images it is worth; goes on where it stopped."""
    from meddiff.experiments.advice import advise_user

    try:
        numbers = [int(number) for number in budgets.split(",")] if budgets else []
    except ValueError:
        numbers = [0]
    if any(number < 2 for number in numbers):
        raise MeddiffError("--budgets", f"they must be whole numbers of 2 and more, not `{budgets}`", "Write them as 10,20,40,80")
    print("\n".join(advise_user(*project(root), numbers)))


for _stage in STAGES:
    if _stage != "generate":
        _add_stage(_stage)
