"""The rules of docs/architecture.md, computed from the imports themselves, and dvc.yaml held against code and layout."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from meddiff.layout import STAGES, Layout
from meddiff.params import Params

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "meddiff"

VENDORS = {"mlflow": "tracking", "great_expectations": "checks", "sqlalchemy": "catalog", "boto3": "storage",
           "botocore": "storage", "dvc": "versioning", "dvc_data": "versioning", "optuna": "tune"}

# Who is who; every module that isn't named here is domain.
BASE = {"errors", "params", "params_file", "cases", "progress", "environment", "__init__"}
SERVICES = {"tracking", "storage", "checks", "catalog", "versioning"}
ACTIONS = {"tune", "trials", "ablation", "parts", "variants", "comparison", "promote", "sampling", "releases", "cells",
           "energy", "benchmark", "nnunet"}
RESULTS = {"records", "summary", "card", "page", "significance", "benchmark_figures", "benchmark_tables", "benchmark_page",
           "benchmark_cards"}
TOP = {"cli", "__main__"}
LAYERS = {**dict.fromkeys(BASE, "base"), "layout": "layout", "pairs": "layout", **dict.fromkeys(SERVICES, "services"),
          **dict.fromkeys(ACTIONS, "actions"), **dict.fromkeys(TOP, "top"), "flows": "flows"}
# What a layer may import, by layer or module: downwards only. RESULTS speak of tables that stages left.
MAY = {
    "base": {"base"},
    "layout": {"base", "layout"},
    "domain": {"base", "domain"},
    "services": {"base", "layout", "records"},
    "actions": {"base", "layout", *RESULTS, "services", "actions"},
    "stages": {"base", "layout", "domain", "tracking", "checks", "catalog", "stages/__init__"},
    "flows": {"base", "layout", *RESULTS, "services", "actions", "flows"},
    "top": {"base", "layout", "domain", "services", "actions", "stages", "top"},
}
# A run's tags hold the hashes that DVC computes; a stage that fails brings back what DVC removed.
ALSO = {("tracking", "versioning"), ("stages/__init__", "versioning")}

# Modules that change no result: a stage's outputs don't depend on them, so DVC needn't rerun it when they change.
NEUTRAL = {"errors", "progress", "environment", "tracking", "catalog", "versioning", "stages/__init__", "__init__"}
NO_STAGE = {"compute", "tracking", "catalog", "promote", "tune", "ablate", "benchmark"}  # change no result, or belong to no stage


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


def module(path: Path) -> str:
    """Name by which docs/architecture.md knows a file: the module or package right below meddiff, a stage, or `flows`."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    return "flows" if first == "flows" else "/".join(rest) if rest[0] == "stages" else rest[0]


def layer(name: str) -> str:
    return "stages" if name.startswith("stages/") else LAYERS.get(name, "domain")


def allowed(here: str, there: str) -> bool:
    return here == there or (here, there) in ALSO or bool({there, layer(there)} & MAY[layer(here)])


def test_each_service_is_imported_by_one_module_and_prefect_by_flows_alone() -> None:
    wrong = [f"{path.relative_to(ROOT)} imports {vendor}" for path in sources() for name in imports(path)
             if (vendor := name.split(".")[0]) in {*VENDORS, "prefect"} and module(path) != VENDORS.get(vendor)]
    assert not wrong
    used = {(name.split(".")[0], module(path)) for path in sources() for name in imports(path)}
    assert ("mlflow", "tracking") in used
    assert ("dvc", "versioning") in used


@pytest.mark.parametrize("path", [*sources(), *sources(ROOT / "flows")], ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards_only(path: Path) -> None:
    here = module(path)
    wrong = sorted({module(file) for file in ours(path) if not allowed(here, module(file))})
    assert not wrong, f"{here} ({layer(here)}) must not import {wrong}"


def test_the_rules_can_be_broken() -> None:
    forbidden = (("inpainting", "layout"), ("metrics", "tracking"), ("storage", "catalog"), ("stages/filter", "storage"),
                 ("stages/filter", "stages/segment"), ("flows", "cli"), ("promote", "stages/filter"))
    assert not [pair for pair in forbidden if allowed(*pair)]


def test_stages_stand_alone() -> None:
    """DVC's dependencies are one file a stage: a stage that imported another would run its code."""
    for stage in STAGES:
        path = PACKAGE / f"stages/{stage}.py"
        assert not {module(file) for file in ours(path)} & {f"stages/{other}" for other in STAGES}, path


def test_nothing_happens_at_import(tmp_path: Path) -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in sources()]
    code = ("import importlib, os, warnings; warnings.simplefilter('ignore'); before = set(os.environ)\n"
            f"for name in {[name for name in names if not name.endswith('__main__')]}: importlib.import_module(name)\n"
            "ours = ('MLFLOW', 'MEDDIFF', 'PREFECT', 'AWS')\n"
            "print(sorted(name for name in set(os.environ) - before if name.startswith(ours)))")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert not list(tmp_path.iterdir())


def test_a_file_stays_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert not {name: n for name, n in lengths.items() if n > 300}


# ---- dvc.yaml

def pipeline() -> dict[str, dict[str, object]]:
    return dict(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"] or {})


def paths(stage: str, kind: str) -> set[str]:
    """Deps or outs of a stage; one with options is a mapping of one key."""
    listed = pipeline()[stage].get(kind, [])
    assert isinstance(listed, list)
    return {next(iter(item)) if isinstance(item, dict) else item for item in listed}


def code_of(stage: str) -> set[str]:
    """Files and packages that the result of a stage depends on: what its file imports, directly or not."""
    found: set[Path] = set()
    todo = {PACKAGE / f"stages/{stage}.py"}
    while todo:
        path = todo.pop()
        found.add(path)
        todo |= {file for file in ours(path) if module(file) not in NEUTRAL} - found
    packages = {path.parent for path in found if path.parent not in (PACKAGE, PACKAGE / "stages")}
    return {str((path.parent if path.parent in packages else path).relative_to(ROOT)) for path in found}


def show_code_of_stages() -> str:
    """What dvc.yaml should say: `python -c "import tests.test_architecture as t; print(t.show_code_of_stages())"`."""
    found = {stage: {"deps": sorted(code_of(stage)), "params": sorted(sections_of(stage))} for stage in STAGES}
    return yaml.safe_dump(found, sort_keys=False)


def sections_of(stage: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"stages/{stage}.py").read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "params"}
    return used & set(Params.model_fields) - NO_STAGE


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_import_closure(stage: str) -> None:
    listed = {path for path in paths(stage, "deps") if path.startswith("meddiff/")}
    assert listed == code_of(stage), "\n      - ".join([f"dvc.yaml, {stage}: the deps should be", *sorted(code_of(stage))])


@pytest.mark.parametrize("stage", STAGES)
def test_sections_read_are_sections_listed(stage: str) -> None:
    listed = pipeline()[stage].get("params", [])
    assert isinstance(listed, list)
    assert {str(name).split(".")[0] for name in listed} == sections_of(stage), stage


def test_stages_run_this_package_in_this_order() -> None:
    assert tuple(pipeline()) == STAGES
    assert [found["cmd"] for found in pipeline().values()] == [f"python -m meddiff {stage}" for stage in STAGES]


def test_outs_are_the_paths_of_the_layout() -> None:
    layout = Layout(Path())
    expected = {
        "prepare": {layout.split, layout.normal, *map(layout.cases, ("train", "val", "test"))},
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
    made: set[str] = set()
    for stage in STAGES:
        data = {path for path in paths(stage, "deps") if not path.startswith(("meddiff/", "${"))}
        assert all(any(Path(path).is_relative_to(out) for out in made) for path in data), (stage, data)
        assert (str(Layout(Path()).cases("test")) in data) == (stage == "evaluate")
        made |= paths(stage, "outs")


# ---- test data

def calls(path: Path, name: str) -> list[ast.Call]:
    """Calls of a function or method by its last name."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1] == name]


def constants(nodes: list[ast.Call], position: int) -> list[str | None]:
    """The text that is given at a position of each call, None where it is no constant."""
    given = [node.args[position] if len(node.args) > position else None for node in nodes]
    return [str(node.value) if isinstance(node, ast.Constant) else None for node in given]


def test_only_prepare_and_evaluate_name_the_test_cases() -> None:
    """Elsewhere `layout.cases` is called with `train` or `val` written out, so that no variable can bring in `test`. `nnunet`
    copies the test images, without masks (tests/test_nnunet.py)."""
    opened = {module(path) for path in [*sources(), *sources(ROOT / "flows")] for part in constants(calls(path, "cases"), 0)
              if part not in ("train", "val")}
    assert opened == {"stages/prepare", "stages/evaluate", "nnunet"}
    spelled = {module(path) for path in sources() for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.Constant) and str(node.value).startswith("data/test")}
    assert spelled <= {"leakage"}   # in its message


def test_searches_and_ablations_never_evaluate() -> None:
    """They choose by validation Dice; only the benchmark and the pipeline's own flow go on to the test."""
    run = {module(path): set(constants(calls(path, "reproduce"), 1)) for path in sources() if calls(path, "reproduce")}
    assert run == {"trials": {"filter", "segment"}, "cells": {"prepare", "evaluate"}}
    for name in ("tune", "trials", "ablation", "variants", "parts", "comparison"):
        assert not {module(file) for file in ours(PACKAGE / f"{name}.py")} & {"cells", "benchmark", "stages/evaluate"}, name
