"""Commands on what is made: the catalogue, releases, and exports for other programs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from meddiff.cli.project import served_project

catalog_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What is known of the synthetic samples.")
release_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Synthetic datasets in S3 storage or a folder.")
export_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Segmenters and accepted pairs for other programs.")


@catalog_app.command("rebuild")
def catalog_rebuild() -> None:
    """Read the project's files into the catalogue anew: a repair, since stages write it as they finish."""
    from meddiff.services import catalog

    counts = catalog.rebuild(*served_project())
    print(f"{counts.batches} batches, {counts.samples} samples, {counts.decisions} decisions, {counts.promotions} promotions")


@catalog_app.command("show")
def catalog_show(id: Annotated[str, typer.Argument(help="Of the sample.")]) -> None:
    """Tell where a sample comes from and what became of it."""
    from dataclasses import fields

    from meddiff.services import catalog

    record = catalog.show(*served_project(), id)
    _tell_if_outdated()
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
    from meddiff.services import catalog

    for record in catalog.find(*served_project(), status, limit):
        print(f"{record.id}  {record.verdict:<11}  {record.reason}")
    _tell_if_outdated()


def _tell_if_outdated() -> None:
    from meddiff.services import catalog

    if catalog.outdated(*served_project()):
        print(f"catalog: samples or decisions were written since they were read in. {catalog.REBUILD}", file=sys.stderr)


Place = Annotated[str, typer.Argument(help="s3://BUCKET, s3://BUCKET/PREFIX or file:///FOLDER")]
Endpoint = Annotated[str | None, typer.Option(help="URL of the S3 server; MEDDIFF_S3_ENDPOINT_URL or AWS's if not given.")]


@release_app.command("publish")
def release_publish(name: str, place: Place, endpoint: Endpoint = None) -> None:
    """Publish the accepted pairs as a release that never changes."""
    from meddiff.delivery.releases import publish
    from meddiff.progress import bar
    from meddiff.services.storage import open_store
    from meddiff.upkeep.unused import pin_release

    layout, params = served_project()
    with bar("publish") as report:
        release = publish(layout, params, open_store(place, endpoint), name, report)
    pin_release(layout, release.name, release.url)
    print(f"{release.url}: {release.pairs} pairs, {release.bytes / 1e6:.1f} MB")


@release_app.command("fetch")
def release_fetch(
    name: str, place: Place, out: Annotated[Path, typer.Option(help="A new or empty folder.")], endpoint: Endpoint = None,
) -> None:
    """Fetch a release, every file checked by its hash; works from any folder."""
    from meddiff.delivery.releases import fetch
    from meddiff.progress import bar
    from meddiff.services.storage import open_store

    with bar("fetch") as report:
        release = fetch(open_store(place, endpoint), name, out, report)
    print(f"{release.pairs} pairs in {out}; use them with: meddiff init --dataset folder --path {out}")


@release_app.command("list")
def release_list(place: Place, endpoint: Endpoint = None) -> None:
    """List the complete releases."""
    from meddiff.delivery.releases import list_releases
    from meddiff.services.storage import open_store

    for release in list_releases(open_store(place, endpoint)):
        print(f"{release.name}  {release.pairs} pairs  {release.bytes / 1e6:.1f} MB  {release.created}"
              + (f"  WITHDRAWN: {release.withdrawn}" if release.withdrawn else ""))


@export_app.command("folder")
def export_folder(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    labels: Annotated[bool, typer.Option("--labels", help="Masks of one class hold 0 and 1, not 0 and 255.")] = False,
    kind: Annotated[Literal["folder", "coco", "labelme", "monai", "imagefolder", "dicom", "nifti"], typer.Option(
        "--format", help="folder: masks/; coco and labelme: JSON; monai: a datalist; imagefolder: Hugging Face's; dicom: images "
                         "and SEG; nifti: volumes of one slice.")] = "folder",
    uid_root: Annotated[str, typer.Option(help="With --format dicom: how new UIDs begin; as pydicom's if not given.")] = "",
) -> None:
    """Write the accepted pairs, with their final masks, as images/ and what the format has for masks."""
    from meddiff.delivery.pairs import export_pairs
    from meddiff.progress import bar

    layout, params = served_project()
    with bar("export") as report:
        made = export_pairs(layout, params, out, labels, report, kind, uid_root)
    told = "images/, masks/, samples.csv" if kind == "folder" else f"{kind}, images/, samples.csv"
    print(f"{made} accepted pairs in {out}: {told}; README.md says what the masks hold")


@export_app.command("segmenter")
def export_trained(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    kind: Annotated[Literal["onnx", "bundle", "safetensors"], typer.Option(
        "--format", help="onnx: for ONNX Runtime; bundle: MONAI's; safetensors: weights, with all else as JSON.")] = "onnx",
    arm: Annotated[str | None, typer.Option(help="Of segment.arms; that of the best mean validation Dice if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of its training; that of the best validation Dice if not given.")] = None,
) -> None:
    """Write a trained segmenter for other programs, chosen by validation; README.md says how to use it."""
    from meddiff.delivery.deliveries import note_delivery, present_generators
    from meddiff.delivery.segmenters import export_segmenter

    layout, params = served_project()
    row = export_segmenter(layout, out, kind, arm, seed).row
    note_delivery(layout, params, "export", f"segmenter {row.arm} {row.seed}", str(out.resolve()), present_generators(layout), 0)
    print(f"{out}: arm {row.arm}, seed {row.seed}, validation Dice {row.dice:.4f}; README.md says how to use it")
    print("research use only: no medical device")


@export_app.command("nnunet")
def export_nnunet(
    out: Annotated[Path, typer.Argument(help="nnU-Net's folder nnUNet_raw, or a new one.")],
    arm: Annotated[str, typer.Option(help="An arm of segment.arms whose pairs lie in files; any other is told which do.")
                   ] = "synthetic",
    number: Annotated[int, typer.Option(min=1, max=999, help="Of the dataset in nnU-Net.")] = 501,
    test_labels: Annotated[bool, typer.Option("--test-labels", help="Also labelsTs/: the test masks as nnU-Net's labels.")
                           ] = False,
) -> None:
    """Write a dataset for nnU-Net v2: pairs never in its validation, test images without masks unless asked for."""
    from meddiff.delivery.nnunet import export
    from meddiff.progress import bar

    layout, params = served_project()
    with bar("export") as report:
        made = export(layout, params, out, arm, number, report, test_labels)
    print(f"{made.folder}: {made.real} real and {made.added} added training pairs, {made.validation} validation cases, "
          f"{made.test} test images")
    print(f"next, with nnU-Net: nnUNetv2_plan_and_preprocess -d {number} -c 2d --verify_dataset_integrity && "
          f"nnUNetv2_train {number} 2d 0")
    if test_labels:
        print(f"then, with its predictions of imagesTs in DIR: nnUNetv2_evaluate_folder {made.folder}/labelsTs DIR "
              f"-djfile {made.folder}/dataset.json -pfile DIR/plans.json")
