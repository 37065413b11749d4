"""The import rules of docs/explanation/architecture.md, and dvc.yaml held against code and layout."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest
import yaml

from meddiff.finished import files_of
from meddiff.layout import STAGES, Layout
from meddiff.params import MAIN, Params

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "meddiff"

VENDORS = {"mlflow": "services/tracking", "great_expectations": "filtering", "sqlalchemy": "services/catalog",
           "alembic": "services/catalog", "boto3": "services/storage", "botocore": "services/storage", "jinja2": "pages",
           "starlette": "browsing", "uvicorn": "browsing",
           "dvc": "services/versioning", "dvc_data": "services/versioning", "optuna": "experiments/tuning",
           "optuna_dashboard": "experiments/tuning",
           "distributed": "cluster", "dask": "cluster"}

# The ground, on which every room stands; of it the stages and what is around them alone know where files lie (`layout`).
GROUND = {"__init__", "errors", "params", "cases", "progress", "environment", "warm", "seeds", "training", "pages"}
ADDRESSES = {"served": {"delivery"}, "served_segmenter": {"delivery"}}  # of functions that saved files name
# Which rooms a room may import beside the ground: downwards only, so that no arrow leads back.
MAY: dict[str, set[str]] = {
    "layout": set(),
    "finished": {"layout"},
    "cluster": {"finished"},
    "datasets": set(),
    "lesions": set(),
    "masks": {"lesions"},
    "diffusion": set(),
    "pretrained": {"datasets", "diffusion"},
    "painting": {"lesions", "masks", "diffusion"},
    "segmentation": {"lesions", "masks"},
    "backgrounds": {"lesions", "painting", "segmentation"},
    "filtering": {"lesions", "masks", "segmentation"},
    "evaluation": set(),
    "outputs": {"layout", "datasets"},
    "services/versioning": {"layout"},
    "services/tracking": {"layout", "services/versioning"},
    "services/catalog": {"layout", "outputs"},
    "services/storage": {"layout"},
    "services/backup": {"layout", "services/storage", "services/tracking", "services/versioning"},
    "experiments/recipes": set(),
    "experiments/advice": {"layout", "finished", "outputs", "segmentation", "evaluation", "experiments/run", "services/tracking"},
    "experiments/run": {"layout", "finished", "outputs", "services/versioning"},
    "experiments/tuning": {"layout", "finished", "cluster", "experiments/run", "services/tracking", "services/versioning",
                           "services/catalog"},
    "experiments/ablation": {"layout", "finished", "outputs", "experiments/recipes", "experiments/run", "services/tracking"},
    "experiments/benchmark": {"layout", "finished", "cluster", "outputs", "evaluation", "experiments/recipes",
                              "experiments/run", "services/tracking", "services/versioning"},
    "browsing": {"layout", "outputs", "evaluation"},
    "delivery": {"layout", "outputs", "datasets", "painting", "segmentation", "evaluation", "services/tracking",
                 "services/versioning", "services/catalog", "services/storage"},
    "lineage": {"layout", "outputs", "delivery", "services/tracking", "services/catalog", "services/versioning",
                "services/storage"},
    "upkeep": {"layout", "services/backup", "services/tracking", "services/versioning", "services/catalog", "services/storage"},
    "stages": {"layout", "finished", "cluster", "datasets", "lesions", "masks", "diffusion", "pretrained", "painting",
               "segmentation", "backgrounds", "filtering", "outputs", "evaluation", "services/tracking", "services/versioning",
               "services/catalog"},
    "cli": {"layout", "cluster", "datasets", "browsing", "experiments/advice", "experiments/recipes", "experiments/run",
            "experiments/tuning", "experiments/ablation", "experiments/benchmark", "delivery", "lineage",
            "services/tracking", "services/catalog", "services/storage", "services/versioning", "services/backup", "stages",
            "upkeep"},
    "flows": {"layout", "outputs", "evaluation", "delivery", "experiments/run", "experiments/tuning", "experiments/ablation",
              "experiments/benchmark", "services/tracking", "services/versioning"},
    "__main__": {"cli", "layout"},
    **ADDRESSES,
}
SPLIT = ("services", "experiments")  # whose rooms lie one floor deeper

# Rooms that change no result: a stage's outputs don't depend on them, so DVC needn't rerun it when they change.
NEUTRAL = {"__init__", "errors", "progress", "environment", "warm", "finished", "cluster", "services/tracking",
           "services/versioning", "services/catalog", *ADDRESSES}
NO_CODE = (PACKAGE / "stages/__init__.py", PACKAGE / "stages/resume.py")
# Change no result, or belong to no stage.
NO_STAGE = {"compute", "tracking", "catalog", "platform", "promote", "tune", "ablate", "benchmark"}


@cache
def sources(folder: Path = PACKAGE) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts))


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, inside functions too, but not for types alone."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return frozenset(found)


def file_of(name: str) -> Path | None:
    """The file behind a dotted name below meddiff, which may end in a function's name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:end])
        if place.with_suffix(".py").is_file():
            return place.with_suffix(".py")
        if (place / "__init__.py").is_file():
            return place / "__init__.py"
    return None


def ours(path: Path) -> set[Path]:
    return {file for name in imports(path) if name.split(".")[0] in ("meddiff", "flows") and (file := file_of(name)) is not None}


def room(path: Path) -> str:
    """Name of a file's room in `MAY`: a folder right below meddiff, a file there, or `flows`."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    if first == "flows":
        return first
    return "/".join(rest[:2]) if rest[0] in SPLIT and rest[1:] != ["__init__"] else rest[0]


def allowed(here: str, there: str) -> bool:
    return here == there or there in GROUND or (here not in GROUND and there in MAY[here])


def test_each_service_is_imported_by_one_room_and_prefect_by_flows_alone() -> None:
    wrong = [f"{path.relative_to(ROOT)} imports {vendor}" for path in sources() for name in imports(path)
             if (vendor := name.split(".")[0]) in {*VENDORS, "prefect"} and room(path) != VENDORS.get(vendor)]
    assert not wrong
    used = {(name.split(".")[0], room(path)) for path in sources() for name in imports(path)}
    assert ("mlflow", "services/tracking") in used
    assert ("dvc", "services/versioning") in used


@pytest.mark.parametrize("path", [*sources(), *sources(ROOT / "flows")], ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards_only(path: Path) -> None:
    here = room(path)
    wrong = sorted({room(file) for file in ours(path) if not allowed(here, room(file))})
    assert not wrong, f"{here} must not import {wrong}"


def test_the_rules_can_be_broken_and_name_only_what_is_there() -> None:
    forbidden = (("diffusion", "layout"), ("segmentation", "services/tracking"), ("services/storage", "services/catalog"),
                 ("stages", "services/storage"), ("flows", "cli"), ("delivery", "stages"), ("cases", "datasets"))
    assert not [pair for pair in forbidden if allowed(*pair)]
    assert {room(path) for path in [*sources(), *sources(ROOT / "flows")]} - GROUND - set(SPLIT) == set(MAY)


def test_no_arrow_between_rooms_leads_back() -> None:
    below: set[str] = set()
    while rooms := {name for name in MAY if name not in below and MAY[name] <= below}:
        below |= rooms
    assert below == set(MAY), f"these rooms stand on each other: {sorted(set(MAY) - below)}"


def test_no_file_imports_itself_in_a_circle() -> None:
    """Nor for types: who needs another's type stands above it."""
    below: set[Path] = set()
    above = {path: {file for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
                    for alias in node.names if (file := file_of(f"{node.module}.{alias.name}"))} for path in sources()}
    while files := {path for path in above if path not in below and above[path] - {path} <= below}:
        below |= files
    assert below == set(sources()), f"these files import each other: {sorted(map(name_of, set(sources()) - below))}"


def test_stages_stand_alone() -> None:
    """DVC's dependencies are one file a stage: a stage that imported another would run its code."""
    for stage in STAGES:
        path = PACKAGE / f"stages/{stage}.py"
        assert not {file.stem for file in ours(path) if room(file) == "stages"} & set(STAGES), path


def test_nothing_happens_at_import(tmp_path: Path) -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in sources()]
    # `env` is run by alembic alone.
    code = ("import importlib, os, warnings; warnings.simplefilter('ignore'); before = set(os.environ)\n"
            f"for name in {[name for name in names if not name.endswith(('__main__', '.env'))]}: importlib.import_module(name)\n"
            "ours = ('MLFLOW', 'MEDDIFF', 'PREFECT', 'AWS')\n"
            "print(sorted(name for name in set(os.environ) - before if name.startswith(ours)))")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert not list(tmp_path.iterdir())


def test_a_stage_is_a_table_of_contents() -> None:
    lengths = {stage: len((PACKAGE / f"stages/{stage}.py").read_text().splitlines()) for stage in STAGES}
    assert not {stage: n for stage, n in lengths.items() if n > 80}


def test_a_file_stays_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert not {name: n for name, n in lengths.items() if n > 300}


def public_names(path: Path) -> set[str]:
    """What a file defines at its top without an underscore."""
    nodes = ast.parse(path.read_text()).body
    assigned = [target for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign)
                for target in (node.targets if isinstance(node, ast.Assign) else [node.target])]
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    names += [node.id for target in assigned if isinstance(target, ast.Name | ast.Tuple)
              for node in ast.walk(target) if isinstance(node, ast.Name)]
    return {name for name in names if not name.startswith("_")}


def test_a_public_name_stands_once() -> None:
    """But each stage has its `run`, and each migration the names that alembic asks for."""
    places: dict[str, list[str]] = {}
    for path in sources():
        for name in public_names(path) if "versions" not in path.parts else ():
            places.setdefault(name, []).append(name_of(path))
    shared = {name: files for name, files in places.items() if len(files) > 1}
    assert shared == {"run": [f"stages/{stage}" for stage in sorted(STAGES)]}


@pytest.mark.parametrize("path", sources(ROOT / "tests"), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_import_no_private_name(path: Path) -> None:
    private = [name for name in imports(path) if name.startswith("meddiff") and name.split(".")[-1].startswith("_")]
    text = {str(node.value) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    assert not private + [name for name in text if re.fullmatch(r"meddiff\.[a-z_.]+\._[a-z_]+", name)]


# ---- dvc.yaml

def pipeline() -> dict[str, dict[str, object]]:
    return dict(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"] or {})


def paths(stage: str, kind: str) -> set[str]:
    """Deps or outs of a stage; one with options is a mapping of one key."""
    listed = pipeline()[stage].get(kind, [])
    assert isinstance(listed, list)
    return {next(iter(item)) if isinstance(item, dict) else item for item in listed}


def code_of(stage: str) -> set[str]:
    """Files of the ground, the stage's own, and rooms that its result depends on: what its file imports, directly or not."""
    found: set[Path] = set()
    todo = {PACKAGE / f"stages/{stage}.py"}
    while todo:
        path = todo.pop()
        found.add(path)
        todo |= {file for file in ours(path) if room(file) not in NEUTRAL and file not in NO_CODE} - found
    alone = (PACKAGE, PACKAGE / "stages")
    return {str(path.relative_to(ROOT)) if path.parent in alone else f"meddiff/{room(path)}" for path in found}


@pytest.mark.parametrize("stage", STAGES)
def test_finished_work_is_named_by_the_same_closure(stage: str) -> None:
    named = {path for path in files_of(f"stages.{stage}") if path.suffix == ".py" and path not in NO_CODE}
    alone = (PACKAGE, PACKAGE / "stages")
    assert {str(path.relative_to(ROOT)) if path.parent in alone else f"meddiff/{room(path)}" for path in named} == code_of(stage)


def test_dvc_is_told_rooms_rather_than_files() -> None:
    assert sum(path.startswith("meddiff/") for stage in STAGES for path in paths(stage, "deps")) <= 90


def show_code_of_stages() -> str:
    """What dvc.yaml should say: `python -c "import tests.test_architecture as t; print(t.show_code_of_stages())"`."""
    found = {stage: {"deps": sorted(code_of(stage)), "params": sorted(sections_of(stage) | shared_with(stage))}
             for stage in STAGES}
    return yaml.safe_dump(found, sort_keys=False)


def sections_of(stage: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"stages/{stage}.py").read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "params"}
    return used & set(Params.model_fields) - NO_STAGE


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_import_closure(stage: str) -> None:
    listed = {path for path in paths(stage, "deps") if path.startswith("meddiff/")}
    assert listed == code_of(stage), "\n      - ".join([f"dvc.yaml, {stage}: the deps should be", *sorted(code_of(stage))])


def shared_with(stage: str) -> set[str]:
    """Settings of other sections that fill fields of the stage's own."""
    fields = {field for name in sections_of(stage) for field in getattr(Params(), name).shared()}
    return {{"seed": "prepare.seed", "precision": "compute.precision"}[field] for field in fields}


@pytest.mark.parametrize("stage", STAGES)
def test_sections_read_are_sections_listed(stage: str) -> None:
    listed = pipeline()[stage].get("params", [])
    assert isinstance(listed, list)
    shared = shared_with(stage)
    assert {str(name).split(".")[0] for name in listed} == sections_of(stage) | {key.split(".")[0] for key in shared}, stage
    assert not {key for key in shared if key not in listed and key.split(".")[0] not in listed}, stage
    single = [str(name).split(".") for name in listed if "." in str(name)]
    assert all(name in MAIN[section] for section, name in single), "DVC wants them in params.yaml"
    assert set(MAIN) >= sections_of(stage)


def test_stages_run_this_package_in_this_order() -> None:
    assert tuple(pipeline()) == STAGES
    assert [found["cmd"] for found in pipeline().values()] == [f"python -m meddiff {stage}" for stage in STAGES]


def test_outs_are_the_paths_of_the_layout() -> None:
    layout = Layout(Path())
    expected = {
        "prepare": {layout.split, layout.left_out, layout.near_duplicates, layout.normal, layout.outlines,
                    *map(layout.cases, ("train", "val", "test"))},
        "foundation": {layout.foundation},
        "backgrounds": {layout.backgrounds, layout.inspector},
        "mask_model": {layout.mask_model},
        "finetune": {layout.generator},
        "generate": {layout.synthetic},
        "filter": {layout.filtered, layout.quality},
        "segment": {layout.segmenters},
        "evaluate": {layout.report},
    }
    for stage, outs in expected.items():
        assert paths(stage, "outs") == {str(path) for path in outs}, stage


def test_data_dependencies_are_outs_of_earlier_stages_and_only_evaluate_reads_the_test_data() -> None:
    made = {str(Layout(Path()).reviews)}  # git keeps it
    for stage in STAGES:
        data = {path for path in paths(stage, "deps") if not path.startswith(("meddiff/", "${"))}
        assert (str(Layout(Path()).withdrawals) in data) == (stage == "prepare")
        data -= {str(Layout(Path()).withdrawals)}  # git keeps it
        assert all(any(Path(path).is_relative_to(out) for out in made) for path in data), (stage, data)
        assert (str(Layout(Path()).cases("test")) in data) == (stage == "evaluate")
        made |= paths(stage, "outs")


def test_metrics_and_plots_are_read_from_outs() -> None:
    """DVC compares runs by them, and says nothing of a file that no stage makes."""
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    read = {*declared["metrics"], *(file for plot in declared["plots"] for axes in plot.values() for axis in ("x", "y")
                                    for file in axes[axis])}
    outs = {out for stage in STAGES for out in paths(stage, "outs")}
    assert {f"{Layout(Path()).report}/summary.json", f"{Layout(Path()).segmenters}/validation.csv"} <= read
    assert not {path for path in read if not any(Path(path).is_relative_to(out) for out in outs)}


# ---- test data

def calls(path: Path, name: str) -> list[ast.Call]:
    """Calls of a function or method by its last name."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1] == name]


def constants(nodes: list[ast.Call], position: int) -> list[str | None]:
    """The text that is given at a position of each call, None where it is no constant."""
    given = [node.args[position] if len(node.args) > position else None for node in nodes]
    return [str(node.value) if isinstance(node, ast.Constant) else None for node in given]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).with_suffix(""))


def test_only_prepare_and_evaluate_name_the_test_cases() -> None:
    """Elsewhere `layout.cases` is called with `train` or `val` written out, so that no variable can bring in `test`. `nnunet`
    copies the test images, without masks (tests/delivery/test_nnunet.py), people look at what `evaluate`
    left, and `sources` reads whose they are."""
    opened = {name_of(path) for path in [*sources(), *sources(ROOT / "flows")] for part in constants(calls(path, "cases"), 0)
              if part not in ("train", "val")}
    assert opened == {"outputs/prepared", "outputs/sources", "stages/evaluate", "delivery/nnunet", "browsing/predictions"}
    spelled = {name_of(path) for path in sources() for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.Constant) and str(node.value).startswith("data/test")}
    assert spelled <= {"datasets/leakage"}   # in its message


def test_searches_and_ablations_never_evaluate() -> None:
    """They choose by validation Dice; only the benchmark and the pipeline's own flow go on to the test."""
    assert [name_of(path) for path in sources() for _ in calls(path, "reproduce")] == ["experiments/run"]
    within = [node for node in ast.walk(ast.parse((PACKAGE / "experiments/run.py").read_text()))
              if isinstance(node, ast.FunctionDef) and "versioning.reproduce(self.tree.root, stage," in ast.unparse(node)]
    assert [(node.name, [each.arg for each in node.args.args]) for node in within] == [("up_to", ["self", "stage"])]
    run = {name_of(path): set(constants(calls(path, "up_to"), 0)) for path in sources() if calls(path, "up_to")}
    assert run == {"experiments/run": {"filter", "segment"}, "experiments/benchmark/cells": {"prepare", "evaluate"},
                   "experiments/advice": {"prepare"}, "experiments/tuning/trials": {"filter"}}
    searches = [path for path in sources() if room(path).removeprefix("experiments/") in ("run", "tuning", "ablation", "advice")]
    for path in searches:
        assert not {room(file) for file in ours(path)} & {"experiments/benchmark", "stages"}, path


# ---- addresses in saved files

def test_saved_files_find_what_they_name() -> None:
    """Pipelines that were saved, and generators that were registered, before a module moved still load."""
    from meddiff.delivery import served, served_segmenter
    from meddiff.diffusion.codec import PatchCodec
    from meddiff.pretrained import FOUNDATION

    named = json.loads((FOUNDATION / "model_index.json").read_text())["vae"]
    assert named == [PatchCodec.__module__, PatchCodec.__name__] == ["meddiff.codec", "PatchCodec"]
    assert getattr(sys.modules[named[0]], named[1]) is PatchCodec
    assert importlib.import_module("meddiff.served")._load_pyfunc is served._load_pyfunc
    assert importlib.import_module("meddiff.served_segmenter")._load_pyfunc is served_segmenter._load_pyfunc


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_there_is(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "meddiff":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of Great Expectations' own imports
                module = importlib.import_module(str(node.module))
            missing = [name.name for name in node.names if not hasattr(module, name.name) and not importlib.util.find_spec(
                f"{node.module}.{name.name}")]
            assert not missing, node.module
