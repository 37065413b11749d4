"""Commands. Each imports what it needs when it runs, so that `--help` answers at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meddiff.errors import MeddiffError
from meddiff.layout import STAGES, Layout

if TYPE_CHECKING:
    from meddiff.params import Params

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="Guided synthesis of annotated medical images, and what it gains. `dvc repro` runs the whole chain.")
catalog_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What is known of the synthetic samples.")
release_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Synthetic datasets in S3-compatible storage.")
app.add_typer(catalog_app, name="catalog")
app.add_typer(release_app, name="release")

STAGE_HELP = {
    "prepare": "Stage: decode, check, resize and split the raw dataset.",
    "foundation": "Stage: load or pretrain the inpainting model.",
    "backgrounds": "Stage: make the lesion-free images that lesions are painted into.",
    "mask_model": "Stage: train the diffusion model that invents masks.",
    "finetune": "Stage: teach the foundation the lesions of the annotated cases.",
    "filter": "Stage: score, accept or reject samples, and tighten their masks.",
    "segment": "Stage: train the segmenters that are compared.",
    "evaluate": "Stage: measure them on the test data and write the report.",
}


def _project(start: Path | None = None) -> tuple[Layout, "Params"]:
    """The project at or above a folder, the current one if none is given, and its settings."""
    from meddiff.params_file import load_params

    here = (start or Path.cwd()).resolve()
    root = next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), here)
    return Layout(root), load_params(root / "params.yaml")


def _any_project() -> tuple[Layout, "Params"]:
    """The project here, else the checkout that this package runs from, for commands that work from any folder."""
    from meddiff.params import Params
    from meddiff.params_file import load_params

    try:
        return _project()
    except MeddiffError:
        checkout = Path(__file__).resolve().parents[1]
        return Layout(checkout), load_params(checkout / "params.yaml") if (checkout / "params.yaml").is_file() else Params()


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
    from meddiff.params import PrepareParams
    from meddiff.params_file import edit_params

    layout, _ = _project()
    where = str(path.resolve()) if path else PrepareParams().path
    if path is None and dataset != "demo":
        raise MeddiffError("--path", f"the folder of the `{dataset}` dataset must be given", "Add --path DIR")
    names = [name.strip() for name in classes.split(",")] if classes else list(PrepareParams().classes)
    values = {"dataset": dataset, "path": where, "n_labelled": n_labelled, "size": size, "classes": names}
    change = {"prepare": {name: value for name, value in values.items() if value is not None}}
    text = edit_params(layout.params.read_text(), change, layout.params)
    if dataset != "demo":
        from meddiff import adapters

        cases = adapters.read(dataset, Path(where), names)
        marked, free = sum(bool(case.masks) for case in cases), sum(case.lesion_free for case in cases)
        parts = {part: sum(case.part == part for case in cases) for part in ("train", "val", "test")}
        print(f"{dataset} at {where}: {len(cases)} images, {marked} with a lesion mask, {free} declared lesion-free, "
              f"{len({case.group for case in cases})} groups")
        print("split by the dataset: " + ", ".join(f"{n} {part}" for part, n in parts.items()) if any(parts.values())
              else "the dataset has no split; `prepare` makes one by groups")
    layout.params.write_text(text)
    print(f"params.yaml now says {', '.join(f'{name}: {value}' for name, value in change['prepare'].items())}")
    print("next: dvc repro")


@app.command()
def profile(name: Annotated[str, typer.Argument(help="Such as paper: params/paper.yaml.")]) -> None:
    """Write a ready set of settings into params.yaml, comments and order kept."""
    from meddiff.params_file import apply_profile

    layout, _ = _project()
    checkout = Layout(Path(__file__).resolve().parents[1])
    print("\n".join(apply_profile(layout.params, [layout.profile(name), checkout.profile(name)])))


@app.command()
def generate(
    model: Annotated[str | None, typer.Option(help="A registered model, such as models:/meddiff-generator@champion.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="With --model: samples to make.")] = 16,
    out: Annotated[Path | None, typer.Option(help="With --model: a new or empty folder.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --model: the first sample's seed; the others follow.")] = 0,
    guidance: Annotated[float | None, typer.Option(min=1, max=20, help="With --model: if not the model's own.")] = None,
) -> None:
    """Stage: paint invented lesions into lesion-free images. With --model: sample a registered model, from any folder."""
    if model is None:
        if out is not None or guidance is not None:
            raise MeddiffError("--model", "--out and --guidance are for a registered model", "Add --model, or use params.yaml")
        from meddiff.stages import execute

        execute("generate", Path.cwd())
        return
    if out is None:
        raise MeddiffError("--out", "a folder for the samples must be given", "Add --out DIR")
    from meddiff.progress import bar
    from meddiff.sampling import sample_registered

    layout, params = _any_project()
    with bar("sample") as report:
        made = sample_registered(layout, params, model, range(seed, seed + n), out, guidance, report)
    print(f"{made} samples in {out}: images/, masks/, samples.csv")


@app.command()
def promote(
    version: Annotated[str | None, typer.Option(help="Number in the registry; the newest if not given.")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Make the previous champion the champion again.")] = False,
) -> None:
    """Make a registered generator the champion if the gate of params.yaml holds; exit code 1 and the reasons if not."""
    from meddiff import promote as gate

    layout, params = _project()
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
    import subprocess

    from meddiff.tracking import tracking_uri, ui_command

    layout, params = _project()
    command = ui_command(layout, params.tracking, port)
    if not command:
        print(f"the runs are at {tracking_uri(layout, params.tracking)}")
        return
    print(f"the runs are at http://127.0.0.1:{port} - end with Ctrl-C", flush=True)
    done = subprocess.run(command, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, check=False)
    if done.returncode:
        raise MeddiffError(f"port {port}", "MLflow must start; the lines above say why it didn't", "Choose another by --port")


@app.command()
def tune(
    trials: Annotated[int | None, typer.Option(min=1, help="In all, with those of earlier calls; else tune.trials.")] = None,
) -> None:
    """Search guidance, filter bounds and corrosion by validation Dice and cost; shows the best as a change of params.yaml."""
    from meddiff import tune as search

    layout, params = _project()
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
    names: Annotated[bool, typer.Option("--list", help="Only list the parts and the settings that switch them off.")] = False,
) -> None:
    """Run the full method, then each part off in turn; a table by validation Dice, pictures, and exit code 1 if one failed."""
    from meddiff.parts import PARTS

    if names:
        for part in PARTS:
            print(f"{part.name:>20}  {part.shows} ({', '.join(f'{key}: {value}' for key, value in part.off.items())})")
        return
    from meddiff import ablation
    from meddiff.comparison import cells_of

    layout, params = _project(root)
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


@catalog_app.command("rebuild")
def catalog_rebuild() -> None:
    """Read the project's files into the catalogue anew."""
    from meddiff import catalog

    counts = catalog.rebuild(*_project())
    print(f"{counts.batches} batches, {counts.samples} samples, {counts.decisions} decisions, {counts.promotions} promotions")


@catalog_app.command("show")
def catalog_show(id: Annotated[str, typer.Argument(help="Of the sample.")]) -> None:
    """Tell where a sample comes from and what became of it."""
    from dataclasses import fields

    from meddiff import catalog

    record = catalog.show(*_project(), id)
    for field in fields(record):
        if field.name != "promotions":
            print(f"{field.name:>15}: {getattr(record, field.name)}")
    for promotion in record.promotions:
        verdict = "passed" if promotion.passed else "refused"
        print(f"{'promotion':>15}: {promotion.model} version {promotion.version} {verdict}, {promotion.at}")


@catalog_app.command("list")
def catalog_list(
    status: Annotated[str | None, typer.Option(help="accepted, rejected, quarantined or undecided; all if not given.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
) -> None:
    """List samples by their ids."""
    from meddiff import catalog

    for record in catalog.find(*_project(), status, limit):
        print(f"{record.id}  {record.verdict:<11}  {record.reason}")


Bucket = Annotated[str, typer.Argument(help="s3://BUCKET or s3://BUCKET/PREFIX")]
Endpoint = Annotated[str | None, typer.Option(help="URL of the server; MEDDIFF_S3_ENDPOINT_URL or AWS's if not given.")]


@release_app.command("publish")
def release_publish(name: str, bucket: Bucket, endpoint: Endpoint = None) -> None:
    """Publish the accepted pairs as a release that never changes."""
    from meddiff.progress import bar
    from meddiff.releases import publish
    from meddiff.storage import open_store

    layout, params = _project()
    with bar("publish") as report:
        release = publish(layout, params, open_store(bucket, endpoint), name, report)
    print(f"{release.url}: {release.pairs} pairs, {release.bytes / 1e6:.1f} MB")


@release_app.command("fetch")
def release_fetch(
    name: str, bucket: Bucket, out: Annotated[Path, typer.Option(help="A new or empty folder.")], endpoint: Endpoint = None,
) -> None:
    """Fetch a release, every file checked by its hash; works from any folder."""
    from meddiff.progress import bar
    from meddiff.releases import fetch
    from meddiff.storage import open_store

    with bar("fetch") as report:
        release = fetch(open_store(bucket, endpoint), name, out, report)
    print(f"{release.pairs} pairs in {out}; use them with: meddiff init --dataset folder --path {out}")


@release_app.command("list")
def release_list(bucket: Bucket, endpoint: Endpoint = None) -> None:
    """List the complete releases."""
    from meddiff.releases import list_releases
    from meddiff.storage import open_store

    for release in list_releases(open_store(bucket, endpoint)):
        print(f"{release.name}  {release.pairs} pairs  {release.bytes / 1e6:.1f} MB  {release.created}")


for _stage in STAGES:
    if _stage != "generate":
        _add_stage(_stage)
