"""Changes to params.yaml: only the value changes; comments, order and formats stay."""

from difflib import ndiff
from pathlib import Path

import pytest
import yaml

from meddiff.errors import MeddiffError
from meddiff.params.file import edit_params, parse_params, write_params

TEXT = (Path(__file__).parents[2] / "params.yaml").read_text()


def changed_lines(new: str) -> list[str]:
    return [line for line in ndiff(TEXT.splitlines(), new.splitlines()) if line[0] in "+-"]


def test_only_the_named_lines_change_and_comments_stay() -> None:
    new = edit_params(TEXT, {"prepare": {"path": "/data/it's #1", "dataset": "busi"}, "segment": {"seeds": (4, 5)},
                             "finetune": {"learning_rate": 1e-5, "prompt": "a: b"}}, "params.yaml")
    read = yaml.safe_load(new)
    assert read["prepare"]["path"] == "/data/it's #1"
    assert read["segment"]["seeds"] == [4, 5]
    assert read["finetune"]["learning_rate"] == 1e-5
    assert read["finetune"]["prompt"] == "a: b"
    assert len(changed_lines(new)) == 9  # the prompt is new there
    assert "# folder of the raw dataset" in next(line for line in new.splitlines() if line.startswith("  path:"))
    assert edit_params(new, {"segment": {"seeds": [0, 1, 2]}}, "x").count("seeds: [0, 1, 2]") == 1


def test_no_change_leaves_every_byte() -> None:
    assert edit_params(TEXT, {}, "params.yaml") == TEXT
    size = parse_params(yaml.safe_load(TEXT), "x").prepare.size
    assert edit_params(TEXT, {"prepare": {"size": size}}, "params.yaml") == TEXT
    everything = parse_params(yaml.safe_load(TEXT), "x").model_dump()
    assert edit_params(TEXT, everything, "params.yaml") == TEXT
    assert edit_params("finetune:\n  steps: 3\n", {"finetune": {"steps": 3, "lora_rank": 8}}, "x") == "finetune:\n  steps: 3\n"


def test_missing_names_and_sections_and_block_lists() -> None:
    text = "prepare:\n  size: 32  # side\n\nsegment:\n  seeds:\n    - 1\n    - 2\n  steps: 3\n"
    new = edit_params(text, {"prepare": {"seed": 7}, "segment": {"seeds": [9]}, "tune": {"trials": 2}}, "x")
    read = yaml.safe_load(new)
    assert read == {"prepare": {"size": 32, "seed": 7}, "segment": {"seeds": [9], "steps": 3}, "tune": {"trials": 2}}
    assert "# side" in new


OTHER = """# mine
prepare: {size: 32}    # one line
finetune:
  learning_rate: 1e-3   # short
  prompt: "a photo"
  steps: 0x10
  # between
  token: ''
foundation:
  revision: null
  channels:
    - 32
    - 32  # two

segment:
  steps: 7
"""


def test_formats_of_other_lines_stay() -> None:
    assert edit_params(OTHER, {"prepare": {"seed": 1}}, "x") == OTHER.replace("{size: 32}    #", "{seed: 1, size: 32} #")
    new = edit_params(OTHER, {"finetune": {"batch_size": 2, "steps": 3}, "segment": {"steps": 8}}, "x")
    assert new == (OTHER.replace("  learning_rate", "  batch_size: 2\n  learning_rate").replace("0x10", "3")
                   .replace("steps: 7", "steps: 8"))


def test_a_bad_name_or_value_is_refused() -> None:
    with pytest.raises(MeddiffError, match=r"prepare\.sizes"):
        edit_params(TEXT, {"prepare": {"sizes": 3}}, "params.yaml")
    with pytest.raises(MeddiffError, match=r"filter\.agreement"):
        edit_params(TEXT, {"filter": {"agreement": 3.0}}, "params.yaml")
    with pytest.raises(MeddiffError, match=r"other\.yaml.*named sections"):
        edit_params("- size: 32\n", {"prepare": {"seed": 1}}, "other.yaml")
    with pytest.raises(MeddiffError, match=r"there is no setting `nothing`"):
        edit_params(TEXT, {"nothing": {"size": 1}}, "params.yaml")
    assert edit_params(TEXT, {"nothing": {}}, "params.yaml") == TEXT


def test_settings_are_written_all_or_none(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(TEXT)
    with pytest.raises(MeddiffError, match=r"params\.yaml.*finetune\.stepps"):
        write_params(params, {"finetune": {"steps": 3, "stepps": 3}})
    assert params.read_text() == TEXT
    assert write_params(params, {"finetune": {"steps": 3}}) == ["finetune.steps: 3"]
    assert yaml.safe_load(params.read_text())["finetune"]["steps"] == 3
    assert params.read_text().count("#") == TEXT.count("#")
