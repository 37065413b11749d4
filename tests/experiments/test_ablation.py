"""The ablation: a valid table of parts, variants over one DVC cache, failures, going on, and what is written and recorded."""

import csv
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image
from prefect.utilities.callables import parameter_schema
from typer.testing import CliRunner

from flows import ablate as flow_module
from meddiff.cli.app import app
from meddiff.errors import MeddiffError
from meddiff.experiments.ablation import ablation
from meddiff.experiments.ablation.ablation import ablate
from meddiff.experiments.ablation.comparison import caveat, compare, difference, sheet, table_markdown
from meddiff.experiments.ablation.parts import FULL, PARTS, Part, choose_parts
from meddiff.experiments.ablation.variants import tile
from meddiff.experiments.run import Outcome
from meddiff.layout import Layout
from meddiff.params import AblateParams, Params
from meddiff.params.file import edit_params, load_params, parse_params
from meddiff.params.overrides import Overrides, merged, setting

SETTINGS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking database for all tests here, because making one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture
def project(tmp_path: Path, runs: str) -> Layout:
    (tmp_path / "params.yaml").write_text(edit_params(SETTINGS.read_text(), {"filter": {"agreement": 0.5}}, SETTINGS))
    return Layout(tmp_path)


def read(layout: Layout) -> Params:
    return load_params(layout.params)


# ---- the table of parts

@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_changes_known_settings_to_other_values_that_are_allowed(part: Part) -> None:
    on = {"no-guidance": {"generate": {"guidance_scale": 3.0}}, "one-finder-round": {"backgrounds": {"finder_rounds": 2}}}
    default = parse_params(merged(Params(), on.get(part.name, {})), "")  # what is off by default is on before it is switched off
    assert part.off
    changed = parse_params(merged(default, part.overrides), part.name)
    for key, value in part.off.items():
        assert setting(default, key) != value == setting(changed, key), key
    for key, value in (part.needs or {}).items():
        assert setting(default, key) == value, key
    assert not part.idle(default)
    assert part.idle(changed)
    assert part.shows


def test_guidance_is_switched_on_where_it_is_off_and_off_where_it_is_on() -> None:
    on, off = choose_parts(["guidance", "no-guidance"])
    for scale, idle in ((1.0, off), (1.5, on), (3.0, on), (7.5, on)):
        params = parse_params(merged(Params(), {"generate": {"guidance_scale": scale}}), "")
        assert [part for part in (on, off) if part.idle(params)] == [idle]


def test_what_sites_make_no_use_of_stands_beside_no_sites() -> None:
    beside = [part for part in PARTS if part.beside]
    assert [part.name for part in beside] == ["removed-backgrounds", "normal-backgrounds", "texture-fill", "foundation-fill",
                                              "no-fill-check", "no-mask-condition"]
    for part in beside:
        assert part.reference == "no-sites"
        assert part.overrides["generate"]["site_share"] == 0
        assert [one.name for one in choose_parts([part.name])] == ["no-sites", part.name]


def test_every_switch_that_is_on_can_be_switched_off() -> None:
    sections = ("foundation", "backgrounds", "mask_model", "finetune", "generate", "filter")
    on = {f"{section}.{name}" for section in sections for name, value in getattr(Params(), section) if value is True}
    assert on
    assert on <= {key for part in PARTS for key in part.off}


def test_names_choose_parts() -> None:
    assert choose_parts(()) == PARTS
    assert len({part.name for part in (FULL, *PARTS)}) == len(PARTS) + 1
    assert [part.name for part in choose_parts(["no-corrosion", "lora"])] == ["lora", "no-corrosion"]
    with pytest.raises(MeddiffError, match=r"there is no part `luck`. Choose from .*no-corrosion"):
        choose_parts(["luck"])


def test_no_part_of_the_filter_is_left_on_without_it() -> None:
    names = ("no-similarity-low", "no-similarity-high", "no-agreement", "no-contrast")
    rules = {key: value for part in choose_parts(names) for key, value in part.off.items()}
    whole = next(part for part in PARTS if part.name == "no-filter")
    assert len(rules) == 4
    assert rules.items() <= whole.off.items()


# ---- numbers and tables

def test_differences_are_paired_by_seed() -> None:
    full = {0: 0.5, 1: 0.6, 2: 0.7, 3: math.nan}
    found = difference({2: 0.75, 0: 0.52, 1: 0.61, 3: 0.9, 9: 0.1}, full)
    assert found.mean == pytest.approx(0.08 / 3)
    assert found.seeds == 3
    half = 4.302653 * np.std([0.02, 0.01, 0.05], ddof=1) / math.sqrt(3)  # Student's t with 2 degrees of freedom
    assert (found.lower, found.upper) == pytest.approx((0.08 / 3 - half, 0.08 / 3 + half), abs=1e-6)
    one = difference({0: 0.6}, full)
    assert (one.mean, one.seeds, math.isnan(one.lower), math.isnan(one.upper)) == (pytest.approx(0.1), 1, True, True)
    nothing = difference({}, full)
    assert (math.isnan(nothing.mean), nothing.seeds) == (True, 0)


def test_words_for_few_seeds_are_honest() -> None:
    assert "luck alone" in caveat(1, 5)
    assert "decides next to nothing" in caveat(2, 5)
    assert "decides next to nothing" not in caveat(3, 20)
    assert "Of 20 such intervals, 1 miss" in caveat(3, 20)


def outcome(dice: dict[int, float], accepted: int = 5, numbers: dict[str, float] | None = None) -> Outcome:
    return Outcome({"synthetic": dice}, 10, accepted, numbers or {}, ("filter",), 3.0, 90.0)


def test_the_page_compares_with_full() -> None:
    kid, seam = "sets.generated.kid.lesion.mean", "sets.accepted.seam"
    full = outcome({0: 0.6, 1: 0.6}, numbers={kid: 0.2, "sets.generated.n": 5})
    other = outcome({0: 0.5, 1: 0.6}, 0, {kid: 0.25, seam: 1.0})
    part, idle = PARTS[-1], PARTS[0]
    rows = [compare(FULL, "", full.dice["synthetic"], full.dice["synthetic"], full),
            compare(part, "x", other.dice["synthetic"], full.dice["synthetic"], other),
            compare(idle, "x", full.dice["synthetic"], full.dice["synthetic"], full)]
    page = table_markdown(rows, "Title", ["Mind the seeds."])
    assert f"| full | {FULL.shows} | 0.6000 | – | 5 of 10 | 3 |" in page
    assert f"| {part.name} | {part.shows} | 0.5500 | -5.0 (-68.5 to +58.5) | 0 of 10 | 3 |" in page
    assert f"| {idle.name} | {idle.shows} | 0.6000 | the same pairs | 5 of 10 | 3 |" in page
    assert "- Mind the seeds." in page
    assert "| variant | generated.kid.lesion.mean | accepted.seam |" in page
    assert f"| {part.name} | 0.25 (+0.05) | 1 |" in page
    assert "| full | 0.2 | – |" in page


def test_a_tile_shows_background_mask_and_painted_image() -> None:
    rng = np.random.default_rng(0)
    background, image = rng.integers(0, 255, (2, 16, 12, 3), dtype=np.uint8)
    mask, final = np.zeros((2, 16, 12), np.uint8)
    mask[2:9, 2:9], mask[12:15, 2:5], final[4:7, 4:7], final[12:15, 2:5] = 1, 2, 1, 2
    found = tile(background, mask, final, image)
    assert np.array_equal(found[:, :12], background)
    assert np.array_equal(found[:, -12:], image)
    middle = found[:, 15:27]
    assert middle[5, 5].tolist() == [255, 255, 255]
    assert middle[2, 2].tolist() == [127, 127, 127]  # what corrosion left off
    assert middle[0, 0].tolist() == [0, 0, 0]
    assert len({tuple(middle[5, 5]), tuple(middle[13, 3])}) == 2  # classes differ


# ---- a real DVC project with the stages' names and files, whose stages take no time and note that they ran

HEAD = """
import json, sys, yaml, numpy as np, pandas as pd
from pathlib import Path
from PIL import Image
root = Path('.'); p = yaml.safe_load(open('params.yaml'))
with open({log!r}, 'a') as lines: lines.write({name!r} + ' ')
def picture(path, value, mode):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (16, 16), value).save(path)
"""
STAGES = {
    "generate": """
picture(root / "backgrounds/images/n.png", (9, 9, 9), "RGB")
folder, shade = root / "synthetic/b0000", round(50 * p["generate"]["guidance_scale"])
rows = [{"id": f"s{i}", "batch": "b0000", "seed": i, "background": "n", "area": 0.1, "steps": 20, "generator": "g",
         "guidance_scale": 1.0} for i in range(6)]
from meddiff.cases import image_png, mask_png
from meddiff.outputs.shards import write_shard
write_shard(folder / "batch.parquet", pd.DataFrame(rows), {
    "image": [image_png(np.full((16, 16, 3), shade, np.uint8))] * 6, "mask": [mask_png(np.ones((16, 16), np.uint8))] * 6})
""",
    "filter": """
folder = root / "filtered"; folder.mkdir(exist_ok=True)
kept = 6 - round(4 * p["filter"]["agreement"])
if p["filter"].get("min_contrast") == 0 and p["filter"]["agreement"]:
    sys.exit("meddiff: filter.min_contrast: it must be more. Mend it.")
pd.DataFrame([{"id": f"s{i}", "batch": "b0000", "similarity": 0.5, "nearest": "c", "agreement": 0.9, "contrast": 9.0, "area": 0.1,
               "verdict": "accepted" if i < kept else "rejected", "reason": "" if i < kept else "agreement"} for i in range(6)]
             ).to_parquet(folder / "decisions.parquet")
from meddiff.cases import mask_png
from meddiff.outputs.samples import write_masks
write_masks(folder, {f"s{i}": mask_png(np.ones((16, 16), np.uint8)) for i in range(kept)})
(folder / "batches.json").write_text(json.dumps({"b0000": {"passed": True, "reasons": []}}))
(folder / "fidelity.json").write_text(json.dumps({"sets": {"accepted": {"seam": 0.1 * kept, "n": kept, "of": "x", "bad": None}}}))
""",
    "segment": """
folder = root / "models/segmenters"; folder.mkdir(parents=True, exist_ok=True)
dice = 0.6 + 0.1 * p["filter"]["agreement"] + 0.01 * p["generate"]["guidance_scale"]
own = p["segment"]
lines = [f"{arm},{seed},{dice if arm == 'synthetic' else 0.5},1" for arm in own["arms"] for seed in own["seeds"]]
(folder / "validation.csv").write_text("\\n".join(["arm,seed,dice,seconds", *lines]) + "\\n")
""",
}
OUTS = {"generate": ["synthetic", "backgrounds"], "filter": ["filtered"], "segment": ["models/segmenters"]}
DEPS: dict[str, list[str]] = {"generate": [], "filter": ["synthetic"], "segment": ["filtered"]}
SECTIONS = {"generate": ["generate"], "filter": ["filter"], "segment": ["segment", "filter", "generate"]}


@pytest.fixture
def pipeline(project: Layout) -> Layout:
    stages = {}
    for name, code in STAGES.items():
        (project.root / f"{name}.py").write_text(HEAD.format(log=str(project.root / "ran.log"), name=name) + code)
        stages[name] = {"cmd": f"{sys.executable} {name}.py", "deps": [f"{name}.py", *DEPS[name]], "params": SECTIONS[name],
                        "outs": OUTS[name]}
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (project.root / ".gitignore").write_text(".work/\nran.log\nreports/\n")
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=project.root, check=True, capture_output=True)
    return project


def ran(layout: Layout) -> list[str]:
    path = layout.root / "ran.log"
    found = path.read_text().split() if path.is_file() else []
    path.unlink(missing_ok=True)
    return found


def test_variants_share_the_cache_and_a_failing_one_is_a_row(pipeline: Layout, runs: str) -> None:
    parts = ["guidance", "no-agreement", "no-contrast"]
    result = ablate(pipeline, read(pipeline), parts)
    assert ran(pipeline) == ["generate", "filter", "segment",  # full
                             "generate", "filter", "segment",  # guidance: `filter` reads other samples
                             "filter", "segment", "filter"]    # no agreement; no contrast fails in the filter
    full, guidance, agreement, contrast, chance, real = result.rows
    assert [row.part.name for row in result.rows] == ["full", *parts, "chance-filter", "real-only"]
    assert full.dice == pytest.approx(0.66)
    assert (guidance.difference.mean, agreement.difference.mean) == pytest.approx((0.005, -0.05))
    assert (chance.difference.mean, real.difference.mean) == pytest.approx((-0.16, -0.16))
    assert agreement.changes == "filter.agreement 0.0 (was 0.5)"
    assert [row.outcome.accepted if row.outcome else None for row in result.rows] == [4, 4, 6, None, None, None]
    assert agreement.outcome is not None
    assert agreement.outcome.numbers == {"sets.accepted.seam": pytest.approx(0.6), "sets.accepted.n": 6}
    assert result.failed == ("no-contrast",)
    assert "filter.min_contrast: it must be more. Mend it." in contrast.error
    with (pipeline.ablation / "table.csv").open() as lines:
        table = {row["variant"]: row for row in csv.DictReader(lines)}
    assert float(table["no-agreement"]["difference"]) == pytest.approx(-0.05)
    assert table["no-agreement"]["sets.accepted.n"] == "6.0"
    assert "must be more" in table["no-contrast"]["error"]
    assert not list((pipeline.work / "ablate/trees").iterdir())
    assert not pipeline.synthetic.exists()
    with Image.open(pipeline.ablation / "sheet.png") as page:
        pixels = np.asarray(page)
    assert (pixels == 75).all(-1).any()  # painted with guidance 1.5, and without
    assert (pixels == 50).all(-1).any()

    client = MlflowClient(runs)
    whole = client.search_runs(["1"], "tags.`mlflow.runName` = 'ablate demo'", order_by=["attributes.start_time DESC"])[0]
    nested = {run.info.run_name: run for run in client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{whole.info.run_id}'")}
    assert nested.keys() == {"full", *parts}
    assert nested["no-agreement"].data.params["filter.agreement"] == "0.0"
    assert nested["no-agreement"].data.metrics["difference"] == pytest.approx(-0.05)
    assert nested["no-agreement"].data.metrics["accepted.seam"] == pytest.approx(0.6)
    assert (nested["no-contrast"].info.status, whole.info.status) == ("FAILED", "FAILED")
    assert {file.path for file in client.list_artifacts(whole.info.run_id, "ablation")} == {
        "ablation/table.csv", "ablation/table.md", "ablation/sheet.png"}
    assert [file.path for file in client.list_artifacts(nested["full"].info.run_id)] == ["row.png"]

    code = pipeline.root / "filter.py"  # mended: the same command repeats what failed, in the same run
    code.write_text(code.read_text().replace("it must be more", "it must be much more"))
    again = ablate(pipeline, read(pipeline), parts)
    assert "much more" in again.rows[3].error
    assert ran(pipeline).count("generate") == 0
    assert len(client.search_runs(["1"], "tags.`mlflow.runName` = 'ablate demo'")) == 1


# ---- variants that cost nothing

class Variants:
    """Each part costs a point of Dice; notes what was asked."""

    def __init__(self, stop: str = "", error: type[BaseException] = KeyboardInterrupt) -> None:
        self.asked: list[str] = []
        self.overrides: list[Overrides] = []
        self.envs: list[Mapping[str, str]] = []
        self.stop, self.error = stop, error

    def __call__(self, name: str, overrides: Overrides, env: Mapping[str, str], tiles: Path) -> Outcome:
        self.asked.append(name)
        self.overrides.append(overrides)
        self.envs.append(env)
        if name == self.stop:
            raise self.error("stage", "it must work", "Mend it")
        Image.new("RGB", (54, 16), (len(self.asked), 0, 0)).save(tiles / "7.png")
        dice = {arm: dict.fromkeys(overrides["segment"]["seeds"], 0.7 - 0.01 * (name != "full"))
                for arm in overrides["segment"]["arms"]}
        (tiles / "verdicts.csv").write_text("seed,verdict\n7,accepted\n")
        return Outcome(dice, 10, 5, {"kid": 0.1}, ("filter",), 9.0, 90.0)


def test_an_interrupted_ablation_goes_on(project: Layout, runs: str) -> None:
    parts = ["guidance", "no-rim", "no-corrosion"]
    first, second = Variants(stop="no-rim"), Variants()
    with pytest.raises(KeyboardInterrupt):
        ablate(project, read(project), parts, first)
    assert not project.ablation.exists()
    result = ablate(project, read(project), parts, second)
    assert first.asked == ["full", "guidance", "no-rim"]
    assert second.asked == ["no-rim", "no-corrosion"]
    assert second.envs[0]["MEDDIFF_PARENT_RUN"] == first.envs[0]["MEDDIFF_PARENT_RUN"]
    assert [row.part.name for row in result.rows] == ["full", *parts, "chance-filter", "real-only"]
    assert not result.failed
    status = MlflowClient(runs).get_run(first.envs[0]["MEDDIFF_PARENT_RUN"]).info.status
    assert status == "FINISHED"
    third = Variants()
    ablate(project, read(project), parts, third)
    assert not third.asked
    done = MlflowClient(runs).search_runs(["1"], "tags.`mlflow.runName` = 'full'", order_by=["attributes.start_time DESC"])
    assert done[0].data.tags["mlflow.parentRunId"] != first.envs[0]["MEDDIFF_PARENT_RUN"]  # a new ablation is a new run
    (project.root / "meddiff/stages").mkdir(parents=True)
    (project.root / "meddiff/stages/segment.py").write_text("changed = True")
    changed = Variants()
    ablate(project, read(project), parts, changed)
    assert changed.asked == ["full", *parts]
    assert [len(list(path.iterdir())) for path in (project.work / "ablate/done").iterdir()] == [1, 1, 1, 1]
    values = read(project).model_dump()
    values["ablate"]["shown"] += 1
    more = Variants()
    ablate(project, Params.model_validate(values), parts[:1], more)
    assert more.asked == ["full", "guidance"], "of other pictures"


def test_the_same_seeds_and_only_the_arms_that_are_needed(project: Layout) -> None:
    asked = Variants()
    values = read(project).model_dump()
    values["ablate"] |= {"seeds": (4, 5), "parts": ("no-corrosion",)}
    ablate(project, Params.model_validate(values), run=asked)
    assert asked.overrides == [{"segment": {"arms": ["synthetic", "unfiltered", "real"], "seeds": [4, 5]}},
                               {"filter": {"corrosion_radius": 0.0}, "segment": {"arms": ["synthetic"], "seeds": [4, 5]}}]


def test_a_part_that_sites_make_no_use_of_is_compared_with_no_sites(project: Layout) -> None:
    class Scores(Variants):
        """`no-sites` costs five points, `texture-fill` one more; KID goes up by as much."""

        def __call__(self, name: str, *given: Any) -> Outcome:
            made = super().__call__(name, *given)
            lost = {"no-sites": 0.05, "texture-fill": 0.06}.get(name, 0.0)
            dice = {arm: dict.fromkeys(scores, 0.7 - lost) for arm, scores in made.dice.items()}
            return replace(made, dice=dice, numbers={"sets.generated.kid.lesion.mean": lost})

    asked = Scores()
    result = ablate(project, read(project), ["texture-fill", "no-rim"], asked)
    assert asked.asked == ["full", "no-sites", "texture-fill", "no-rim"]
    assert asked.overrides[2]["generate"] == {"site_share": 0.0}
    assert asked.overrides[2]["backgrounds"] == {"fill": ("texture",)}
    assert [row.difference.mean for row in result.rows[1:4]] == pytest.approx([-0.05, -0.01, 0.0])
    assert result.rows[2].changes.startswith("generate.site_share 0.0 (was 1.0), backgrounds.fill ('texture',) (was ")
    page = result.page.read_text()
    assert "Compared with `no-sites`, whose change they have too, for else they may change nothing: texture-fill." in page
    assert "| texture-fill | 0.06 (+0.01) |" in page

    asked = Scores()
    free = parse_params(merged(read(project), {"generate": {"site_share": 0.0}}), "")
    result = ablate(project, free, ["texture-fill"], asked)
    assert asked.asked == ["full"], "`texture-fill` has the very settings that it had beside `no-sites`, and is kept"
    assert result.rows[1].difference.mean == pytest.approx(-0.06), "of the full method, which has no sites either"
    assert "Compared with" not in result.page.read_text()


def test_what_is_off_already_is_left_out_and_told(project: Layout) -> None:
    values = read(project).model_dump()
    values["filter"]["agreement"], values["foundation"]["source"] = 0.0, "some/pipeline"
    asked = Variants()
    result = ablate(project, Params.model_validate(values), ["no-agreement", "no-pretraining", "no-rim"], asked)
    assert asked.asked == ["full", "no-rim"]
    assert any("no-pretraining, no-agreement" in note for note in result.notes)


def test_without_the_full_method_there_is_nothing_to_compare_with(project: Layout) -> None:
    with pytest.raises(MeddiffError, match="it must work"):
        ablate(project, read(project), ["no-rim"], Variants(stop="full", error=MeddiffError))
    failing = Variants(stop="no-rim", error=MeddiffError)
    result = ablate(project, read(project), ["no-rim", "no-corrosion"], failing)
    assert (result.failed, len(result.rows)) == (("no-rim",), 5)


def test_nothing_accepted_is_a_row_without_dice(project: Layout) -> None:
    def nothing(name: str, overrides: Overrides, env: Mapping[str, str], tiles: Path) -> Outcome:
        (tiles / "verdicts.csv").write_text("seed,verdict\n")
        return Outcome({}, 10, 0, {}, ("filter",), 1.0, 90.0)

    result = ablate(project, read(project), ["no-rim"], nothing)
    assert [math.isnan(row.dice) for row in result.rows] == [True, True]
    assert "0 of 10" in result.page.read_text()
    assert sheet(result.rows).size[0] > 0


def test_the_command(project: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = CliRunner().invoke(app, ["ablate", "--list"], catch_exceptions=False).stdout
    assert all(f" {part.name} " in listed for part in PARTS)
    calls: list[Any] = []
    variants = Variants(stop="no-rim", error=MeddiffError)
    plain = ablation.ablate
    monkeypatch.setattr(ablation, "ablate", lambda *given: calls.append(given) or plain(*given, variants))
    done = CliRunner().invoke(app, ["ablate", "--parts", "no-rim, no-corrosion", "--root", str(project.root)])
    assert done.exit_code == 1
    assert calls[0][0].root == project.root
    assert calls[0][2] == ["no-rim", "no-corrosion"]
    assert "failed: stage: it must work. Mend it." in done.stdout
    assert " 0.6900 " in done.stdout
    assert CliRunner().invoke(app, ["ablate", "--parts", "no-corrosion", "--root", str(project.root)]).exit_code == 0


def test_the_flow_shows_table_and_sheet(project: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, str] = {}
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(flow_module, "create_markdown_artifact", lambda text, key, description: made.update({key: text}))
    variants, plain = Variants(), ablation.ablate
    monkeypatch.setattr(ablation, "ablate", lambda layout, params, run: plain(layout, params, (), variants))
    flow_module.ablate.fn(AblateParams(parts=("no-rim",), seeds=(1,)))
    assert variants.asked == ["full", "no-rim"]
    assert variants.overrides[0]["segment"]["seeds"] == [1]
    assert "| no-rim |" in made["ablation"]
    assert "data:image/jpeg;base64," in made["ablation-sheet"]
    assert set(parameter_schema(flow_module.ablate).properties) == {"ablate"}
    variants.stop, variants.error = "no-rim", MeddiffError
    with pytest.raises(MeddiffError, match="1 variants failed: no-rim"):
        flow_module.ablate.fn(AblateParams(parts=("no-rim",)))


def test_what_is_kept_reads_back_as_it_was(project: Layout) -> None:
    result = ablate(project, read(project), ["no-rim"], Variants())
    kept = [json.loads(path.read_text()) for path in (project.work / "ablate/done").glob("*/*/outcome.json")]
    assert len(kept) == 2
    again = ablate(project, read(project), ["no-rim"], Variants())
    assert [row.outcome for row in again.rows] == [row.outcome for row in result.rows]
