"""Commands. Each imports what it needs when it runs, so that `--help` answers at once."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from meddiff.cli.data import catalog_app, export_app, release_app
from meddiff.cli.project import any_project, project
from meddiff.errors import MeddiffError
from meddiff.layout import STAGES, Layout

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="Guided synthesis of annotated medical images, and what it gains. `dvc repro` runs the whole chain.")
app.add_typer(catalog_app, name="catalog")
app.add_typer(release_app, name="release")
app.add_typer(export_app, name="export")

# For real images. With the demo's few steps a segmenter learns too little for more images to help it: benchmarks/README.md.
LONGER = {"segment.steps": 1500, "backgrounds.finder_steps": 1000, "backgrounds.finder_rounds": 2, "generate.n": 300}
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
        from meddiff.stages import execute

        execute(stage, Path.cwd())


@app.command()
def init(
    dataset: Annotated[str, typer.Option(help="demo, folder, busi, isic2017, isic2018, ph2 or ddti")],
    path: Annotated[Path | None, typer.Option(help="Folder of the dataset, as its authors publish it; none for demo.")] = None,
    n_labelled: Annotated[int | None, typer.Option(help="Annotated training cases that the chain may see.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the square images [pixels].")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of several classes of lesions, with commas between.")] = None,
) -> None:
    """Point the project at a dataset: checks the folder and changes params.yaml, comments and order kept."""
    from meddiff.params import PrepareParams, SegmentParams
    from meddiff.params.arms import ARMS
    from meddiff.params.file import edit_params
    from meddiff.params.overrides import nested, setting

    layout, params = project()
    where = str(path.resolve()) if path else PrepareParams().path
    if path is None and dataset != "demo":
        raise MeddiffError("--path", f"the folder of the `{dataset}` dataset must be given", "Add --path DIR")
    names = [name.strip() for name in classes.split(",")] if classes else list(PrepareParams().classes)
    values = {"dataset": dataset, "path": where, "n_labelled": n_labelled, "size": size, "classes": names}
    change = {"prepare": {name: value for name, value in values.items() if value is not None}}
    longer = {} if dataset == "demo" else {key: steps for key, steps in LONGER.items() if setting(params, key) < steps}
    later: dict[str, dict[str, list[Any]]] = {}
    told = [f"{key}: {steps}, since the demo's are too few for real images" for key, steps in longer.items()]
    text = edit_params(layout.params.read_text(), change | nested(longer), layout.params)
    if dataset != "demo":
        from meddiff.datasets import adapters

        cases = adapters.read(dataset, Path(where), names)
        marked, free = sum(bool(case.masks) for case in cases), sum(case.lesion_free for case in cases)
        unmarked = sum(not case.annotated for case in cases)
        parts = {part: sum(case.part == part for case in cases) for part in ("train", "val", "test")}
        print(f"{dataset} at {where}: {len(cases)} images, {marked} with a lesion mask, {free} declared lesion-free, "
              f"{unmarked} without annotation, {len({case.group for case in cases})} groups")
        print("split by the dataset: " + ", ".join(f"{n} {part}" for part, n in parts.items()) if any(parts.values())
              else "the dataset has no split; `prepare` makes one by groups")
        share = 1 - params.prepare.val_fraction - params.prepare.test_fraction
        training = sum(case.part == "train" and bool(case.masks) for case in cases) if any(parts.values()) else marked * share
        spare = unmarked or round(training) > (n_labelled or params.prepare.n_labelled)
        if spare and params.segment.arms == SegmentParams().arms:
            arms = [arm.name for arm in ARMS if arm.role in ("baseline", "method")]  # `combined` needs what is found there
            later["segment"] = {"arms": arms}
            told.append(f"segment.arms: {', '.join(arms)}, since lesions may be found in training images whose annotation isn't "
                        "there or isn't used")
    before = (params.prepare.dataset, params.prepare.path)
    if before != (dataset, where) and [(entry.dataset, entry.path) for entry in params.benchmark.datasets] == [before]:
        stem = re.sub("[^A-Za-z0-9]+", "-", Path(where).name).strip("-")[:40] if dataset == "folder" else ""
        entry = {"name": stem or dataset, "dataset": dataset, "path": where}
        later["benchmark"] = {"datasets": [entry]}
        told.append(f"benchmark.datasets: {entry['name']} alone")
    layout.params.write_text(edit_params(text, later, layout.params))
    for line in (", ".join(f"{name}: {value}" for name, value in change["prepare"].items()), *told):
        print(f"params.yaml now says {line}")
    print("next: dvc repro")


@app.command()
def profile(name: Annotated[str, typer.Argument(help="Such as paper: params/paper.yaml.")]) -> None:
    """Write a ready set of settings into params.yaml, comments and order kept."""
    from meddiff.params.file import apply_profile

    layout, _ = project()
    checkout = Layout(Path(__file__).resolve().parents[2])
    print("\n".join(apply_profile(layout.params, [layout.profile(name), checkout.profile(name)])))


@app.command()
def generate(
    model: Annotated[str | None, typer.Option(help="A registered model, such as models:/meddiff-generator@champion.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="With --model: samples to make.")] = 16,
    out: Annotated[Path | None, typer.Option(help="With --model: a new or empty folder.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --model: the first sample's seed; the others follow.")] = 0,
    guidance: Annotated[float | None, typer.Option(min=1, max=20, help="With --model: if not the model's own.")] = None,
) -> None:
    """Stage: paint invented lesions into the backgrounds. With --model: sample a registered model, from any folder."""
    if model is None:
        if out is not None or guidance is not None:
            raise MeddiffError("--model", "--out and --guidance are for a registered model", "Add --model, or use params.yaml")
        from meddiff.stages import execute

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


@app.command()
def promote(
    version: Annotated[str | None, typer.Option(help="Number in the registry; the newest if not given.")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Make the previous champion the champion again.")] = False,
) -> None:
    """Make a registered generator the champion if the gate of params.yaml holds; exit code 1 and the reasons if not."""
    from meddiff.delivery import promote as gate

    layout, params = project()
    decision = gate.rollback(layout, params) if rollback else gate.promote(layout, params, version)
    for reason in decision.reasons:
        print(reason)
    print(f"{params.promote.model} version {decision.version} is {'the champion' if decision.passed else 'refused'}")
    if not decision.passed:
        raise typer.Exit(1)


@app.command()
def ui(port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 5000) -> None:
    """Open MLflow on this project's runs."""
    import os
    import signal
    import subprocess

    from meddiff.services.tracking import tracking_uri, ui_command

    layout, params = project()
    command = ui_command(layout, params.tracking, port)
    if not command:
        print(f"the runs are at {tracking_uri(layout, params.tracking)}")
        return
    print(f"the runs will be at http://127.0.0.1:{port} in some seconds - end with Ctrl-C", flush=True)
    env, stopped = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, []
    with subprocess.Popen(command, env=env, start_new_session=True) as server:

        def stop(number: int, _frame: object) -> None:
            stopped.append(number)
            os.killpg(server.pid, signal.SIGTERM)  # MLflow's own processes too

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
    if server.returncode and not stopped:
        raise MeddiffError(f"port {port}", "MLflow must start; the lines above say why it didn't", "Choose another by --port")


@app.command()
def tune(
    trials: Annotated[int | None, typer.Option(min=1, help="In all, with those of earlier calls; else tune.trials.")] = None,
) -> None:
    """Search guidance, filter bounds and corrosion by validation Dice and cost; shows the best as a change of params.yaml."""
    from meddiff.experiments.tuning import search

    layout, params = project()
    result = search.tune(layout, params, trials)
    print(f"{'trial':>5} {'dice':>7} {'error':>7} {'cost':>8}  settings (cost: denoising runs for each accepted pair)")
    # a pruned trial's Dice is NaN, which equals nothing: last
    for row in sorted(result.rows, key=lambda row: (row.dice != row.dice, -row.dice)):
        settings = ", ".join(f"{name} {row.shown(name)}" for name in row.settings)
        print(f"{row.number:5d} {row.dice:7.4f} {row.error:7.4f} {row.cost:8.1f}  {settings}")
    print(f"proposed: trial {result.best.number}, validation Dice {result.value:.4f}")
    apply = f"{result.diff}apply it with: patch -p1 < {result.diff_file}"
    print(apply if result.diff else "params.yaml has the best settings already")


@app.command()
def ablate(
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
    from meddiff.experiments.ablation import ablate as ablation
    from meddiff.experiments.ablation.comparison import cells_of

    layout, params = project(root)
    result = ablation.ablate(layout, params, [name.strip() for name in parts.split(",")] if parts else [])
    print(f"{'variant':>20} {'dice':>7} {'difference [points]':>24} {'accepted':>12} {'seconds':>8}")
    for row in result.rows:
        name, _, dice, difference, accepted, seconds = cells_of(row)
        print(f"{name:>20} " + (f"failed: {row.error}" if row.error else
                                f"{dice:>7} {difference:>24} {accepted:>12} {seconds:>8}"))
    for note in result.notes:
        print(note)
    print(f"table and pictures: {result.page.parent}")
    if result.failed:
        raise typer.Exit(1)


@app.command()
def benchmark(
    workers: Annotated[int | None, typer.Option(min=1, help="Cells at the same time; else benchmark.workers.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the project; the current one if not given.")] = None,
    only_work: Annotated[bool, typer.Option(help="Help a benchmark that runs already; no page.")] = False,
    page: Annotated[bool, typer.Option("--page", help="Only write the page anew from the cells that are finished.")] = False,
) -> None:
    """Prove the gain: all datasets, label budgets and seeds of params.yaml, on test data; goes on where it stopped."""
    from meddiff.experiments.benchmark import proof

    layout, params = project(root)
    if only_work:
        proof.help_out(layout, params)
        return
    if workers:
        params = params.model_copy(update={"benchmark": params.benchmark.model_copy(update={"workers": workers})})
    result = proof.report(layout, params, {}) if page else proof.benchmark(layout, params)
    print("\n".join(proof.lines_of(result)))
    if result.missing:
        raise typer.Exit(1)


for _stage in STAGES:
    if _stage != "generate":
        _add_stage(_stage)
