"""Settings files as people break them: one clear line each, or right handling; never a traceback."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meddiff.errors import MeddiffError
from meddiff.params import Params
from meddiff.params.file import edit_params, load_params, parse_params, read_settings

_TEN = "[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]"
_BOMB = "benchmark:\n  datasets:\n  - name: a\n    dataset: demo\n    settings:\n      a0: &a0 [1]\n" + "".join(
    f"      a{i}: &a{i} {_TEN.format(f'*a{i - 1}')}\n" for i in range(1, 10))

REFUSED = {
    # not YAML
    "unclosed brace": ("prepare: {size: 64", r"must be YAML \(.*line"),
    "unclosed quote": ("prepare: {path: 'a}", "must be YAML"),
    "tab": ("prepare:\n\tsize: 64", r"must be YAML \(.*cannot start any token, line 2"),
    "two documents": ("prepare: {size: 64}\n---\nprepare: {size: 32}", "another document, line 2"),
    "duplicate name": ("prepare: {seed: 1, seed: 2}", r'duplicate key "seed".*line 1'),
    "duplicate section": ("prepare: {seed: 1}\nprepare: {seed: 2}", 'duplicate key "prepare"'),
    "unknown alias": ("prepare: *there", "undefined alias"),
    "merge of no mapping": ("prepare: {<<: 3}", "must be YAML"),
    "merge of a list": ("prepare: {<<: [1, 2]}", "must be YAML"),
    "a class of Python": ("prepare: !!python/object:pathlib.Path {}", "must be YAML"),
    "a tag": ("prepare: !mine {size: 64}", "constructor for the tag '!mine'"),
    "a future version": ("%YAML 9.9\n---\nprepare: {}", "must be YAML"),
    "an impossible date": ("prepare: {path: 2001-99-99}", "month must be in"),
    "a control character": ("prepare: {path: a\x01b}", "control characters"),
    "a zero byte": ("prepare: {path: a\0b}", "control characters"),
    "half a surrogate": ('prepare: {path: "\\ud800"}', "must be YAML"),
    "nested without end": ("prepare: " + "[" * 20_000, "must be YAML"),
    "a mapping as name": ("? {a: b}\n: {c: d}", "must be YAML"),
    "5000 digits": (f"generate: {{n: {'9' * 5000}}}", "must be YAML"),
    "a diff": ("--- a/params.yaml\n+++ b/params.yaml\n@@ -1 +1 @@\n-a: 1\n+a: 2\n", "must be YAML|named sections"),
    # not sections
    "a list": ("- prepare", "must be named sections"),
    "a word": ("hello", "must be named sections"),
    "zero": ("0", "must be named sections"),
    "false": ("false", "must be named sections"),
    "JSON of a list": ("[1, 2]", "must be named sections"),
    "a section without settings": ("prepare:\nfinetune: {steps: 3}", "`prepare` must be a section"),
    "a section that is a number": ("prepare: 3", "`prepare` must be a section"),
    "a section that is a list": ("prepare: [size, 64]", "`prepare` must be a section"),
    "a section that is a set": ("prepare: !!set {size}", "`prepare` must be a section"),
    "a number as section": ("1: {size: 64}", "`1` must be a section"),
    "null as section": ("null: {size: 64}", "`None` must be a section"),
    "a list as section": ("? [a]\n: {size: 64}", "must be a section"),
    "a number as name": ("prepare: {1: 2}", "`prepare` must be a section"),
    # aliases that never end
    "an alias inside of itself": ("prepare: &a {path: *a}", "at most 10000 values"),
    "a list inside of itself": ("segment: {seeds: &a [*a]}", "at most 10000 values"),
    "a thousand million values": (_BOMB, "at most 10000 values"),
    "merged settings of another section": ("prepare: &p {size: 64}\nmask_model: {<<: *p}", "no setting `mask_model.size`"),
    # names
    "an unknown section": ("prepair: {size: 64}", "no setting `prepair`.*foundation"),
    "an unknown name": ("prepare: {sise: 64}", "no setting `prepare.sise`.*n_labelled"),
    "a name in capitals": ("Prepare: {size: 64}", "no setting `Prepare`"),
    "a name with a dot": ("prepare.size: {a: 64}", "no setting `prepare.size`"),
    "a shared field": ("finetune: {precision: bfloat16}", "does now what|no setting"),
    "a private field": ("prepare: {__class__: 1}", "no setting `prepare.__class__`"),
    # types
    "text for a number": ("generate: {n: many}", "`generate.n` = 'many'"),
    "a fraction for a whole number": ("generate: {n: 1.5}", r"`generate.n` = 1\.5"),
    "true for a number": ("generate: {n: true}", "`generate.n` = True: it must not be true or false"),
    "true in a list of numbers": ("segment: {seeds: [0, true]}", "must not be true or false"),
    "true for text": ("prepare: {path: true}", "must not be true or false"),
    "a list for a number": ("generate: {n: [1]}", r"`generate.n` = \[1\]"),
    "a number for a list": ("segment: {seeds: 3}", "`segment.seeds` = 3.*list in brackets"),
    "a mapping for a list": ("segment: {seeds: {0: 1}}", "`segment.seeds`.*list in brackets"),
    "null for a number": ("generate: {n: null}", "`generate.n` = None"),
    "a date for text": ("prepare: {path: 2001-12-14}", "`prepare.path`.*string"),
    "a number for a commit": ("foundation: {revision: 1234567}", "`foundation.revision` = 1234567"),
    "a commit that is a number": ("foundation: {revision: 12345e67}", "`foundation.revision`"),
    "seven for a switch": ("compute: {compile: 7}", "`compute.compile` = 7"),
    "half a range": ("tune: {space: {generate.guidance_scale: {low: 1}}}", "it needs `low` and `high`"),
    "a range from above": ("tune: {space: {generate.guidance_scale: {low: 4, high: 1}}}", "from the lesser to the greater"),
    # ranges
    "not a number": ("generate: {guidance_scale: .nan}", "`generate.guidance_scale` = nan.*finite"),
    "infinite": ("finetune: {learning_rate: .inf}", "`finetune.learning_rate` = inf.*finite"),
    "infinite by its exponent": ("finetune: {learning_rate: 1e400}", "finite"),
    "an infinite range": ("tune: {space: {generate.guidance_scale: {low: 1, high: .inf}}}", "`tune.space.*inf.*finite"),
    "a gate that is no number": ("promote: {min_gain_lower: .nan}", "`promote.min_gain_lower` = nan"),
    "more samples than seeds": ("generate: {n: 1000001}", "less than or equal to 1000000"),
    "more steps than there are numbers": ("finetune: {steps: 100000000000000000000}", "a number below 2147483648"),
    "hexadecimal without end": (f"finetune: {{steps: 0x{'f' * 9000}}}", "`finetune.steps`"),
    "a ratio without end": ("segment: {ratio: 1e308}", "a number below 2147483648"),
    "a size between": ("prepare: {size: 65}", "`prepare.size` = 65.*multiple of 16"),
    "a negative seed": ("prepare: {seed: -1}", "`prepare.seed` = -1"),
    "one annotated case": ("prepare: {n_labelled: 1}", "greater than or equal to 2"),
    "an odd width": ("foundation: {channels: [33]}", "multiple of 16"),
    "no width": ("foundation: {channels: []}", "`foundation.channels`.*at least 1"),
    "no seed": ("segment: {seeds: []}", "`segment.seeds`.*at least 1"),
    "a seed twice": ("segment: {seeds: [1, 1]}", "seeds must differ"),
    "an arm twice": ("segment: {arms: [real, real]}", "arms must differ"),
    # words
    "an unknown dataset": ("prepare: {dataset: isic}", "`prepare.dataset` = 'isic': it must be 'demo', 'folder'"),
    "a value of 100,000 letters": (f"prepare: {{dataset: {'x' * 100_000}}}", r"xxx\.\.\.xxx"),
    "a path of a class": ("prepare: {classes: [../../etc]}", "`prepare.classes` = '../../etc'.*pattern"),
    "a path of a dataset": ("benchmark: {datasets: [{name: ../up, dataset: demo}]}", "pattern"),
    "a name that no registry takes": ("promote: {model: team/model}", "`promote.model` = 'team/model'.*pattern"),
    "an experiment without name": ("tracking: {experiment: ''}", "`tracking.experiment`"),
    "an empty path": ("prepare: {path: ''}", "`prepare.path`"),
    "a zero byte by its escape": ('prepare: {path: "a\\0b"}', "`prepare.path`.*without zero bytes"),
    "an empty prompt": ("finetune: {prompt: ' '}", "`finetune.prompt`"),
    "a token beside the prompt": ("finetune: {token: other}", "`finetune.token` = 'other': it must be a word of the prompt"),
    "no loss": ("finetune: {inside_weight: 0, outside_weight: 0}", "the loss needs weight"),
    "a rate above all": ("segment: {encoder_rate: 2}", "`segment.encoder_rate` = 2"),
    "an arm without finder": ("{segment: {arms: [combined]}, backgrounds: {finder_steps: 0}}", "needs backgrounds.finder_steps"),
    "no address": ("catalog: {url: postgres}", "`catalog.url`: a database URL has the form"),
    "an address without its kind": ("tune: {storage: 'user:SECRET@db'}", "`tune.storage`: a database URL has the form"),
    "an address that is a number": ("catalog: {url: 5432}", "`catalog.url`: it must be a valid string"),
}
READ: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing": ("", {}),
    "comments alone": ("# nothing\n", {}),
    "JSON": ('{"prepare": {"size": 128}}', {"prepare.size": 128}),
    "anchors": ("finetune: {steps: &n 7}\nmask_model: {steps: *n}", {"finetune.steps": 7, "mask_model.steps": 7}),
    "merged settings": ("finetune: &f {steps: 7}\nmask_model: {<<: *f, batch_size: 3}",
                        {"mask_model.steps": 7, "mask_model.batch_size": 3}),
    "lines of Windows": ("prepare:\r\n  size: 128\r\n", {"prepare.size": 128}),
    "a byte order mark": ("\ufeffprepare: {size: 128}", {"prepare.size": 128}),
    "words of YAML 1.1": ("finetune: {prompt: yes}\ngenerate: {adaptive: no}",
                          {"finetune.prompt": "yes", "generate.adaptive": False}),
    "other scripts": ("prepare: {path: /データ/Läsionen}", {"prepare.path": "/データ/Läsionen"}),
    "numbers as text": ('generate: {n: "12"}', {"generate.n": 12}),
    "a whole number with a dot": ("generate: {n: 12.0}", {"generate.n": 12}),
    "one value of many lines": ("finetune:\n  prompt: >-\n    a photo\n    of hta\n", {"finetune.prompt": "a photo of hta"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_one_clear_line(name: str, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(MeddiffError, match=message) as caught:
        load_params(path)
    assert caught.value.where == str(path)
    assert caught.value.rule
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("name", READ)
def test_an_odd_file_is_read(name: str, tmp_path: Path) -> None:
    text, expected = READ[name]
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    params = load_params(path)
    assert {key: getattr(getattr(params, key.split(".")[0]), key.split(".")[1]) for key in expected} == expected


@pytest.mark.parametrize("content", [
    "prepare: {path: läsion}".encode("latin-1"), "prepare: {size: 64}".encode("utf-16"), bytes(range(256)), b"\x89PNG\r\n\x1a\n"])
def test_a_file_of_another_encoding_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(MeddiffError, match=r"params\.yaml: the settings file must be text in UTF-8"):
        load_params(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "link.yaml").symlink_to("nowhere")
    for name in ("folder.yaml", "link.yaml", "missing.yaml"):
        with pytest.raises(MeddiffError, match=f"{name}: the settings file must be there"):
            load_params(tmp_path / name)


def test_a_command_never_changes_more_than_it_says() -> None:
    alone = edit_params("finetune: &f {steps: 7}\nmask_model: {<<: *f}\n", {"mask_model": {"steps": 9}}, "x")
    assert read_settings(alone, "x") == {"finetune": {"steps": 7}, "mask_model": {"steps": 9}}
    for text in ("finetune: &f {steps: 7}\nmask_model: *f\n", "finetune: &f {steps: 7}\nmask_model: {<<: *f}\n"):
        with pytest.raises(MeddiffError, match="stand for each other by anchors"):
            edit_params(text, {"finetune": {"steps": 9}}, "x")


_NAMES = st.sampled_from([*Params.model_fields, *(name for section in Params.model_fields
                                                  for name in getattr(Params(), section).settable())])
_SCALARS = (st.none() | st.booleans() | st.integers() | st.integers(-5, 300) | st.floats() | st.text(max_size=20)
            | st.sampled_from(["auto", "demo", "real", "synthetic", "", "../x", "sqlite:///a", "1e999", "0x10"]))
_WORDS = _NAMES | st.text(max_size=8)
_VALUES = st.recursive(_SCALARS, lambda each: st.lists(each, max_size=4) | st.dictionaries(_WORDS, each, max_size=3),
                       max_leaves=8)
_PIECES = ("prepare", "size", ": ", "\n", "  ", "- ", "{", "}", "[", "]", "&a ", "*a", "<<: ", "? ", "!!int ", "!!set ", "'", '"',
           "|", ">", "#", "64", ".nan", "%", "---", "\t", "~")
patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a machine that does other work, too


@patiently
@given(st.dictionaries(_WORDS, st.dictionaries(_WORDS, _VALUES, max_size=4), max_size=4))
def test_any_mapping_is_read_or_refused_in_one_line(values: dict[str, Any]) -> None:
    with suppress(MeddiffError):
        params = parse_params(values, "here")
        assert parse_params(params.model_dump(mode="json"), "here") == params


@patiently
@given(st.text() | st.lists(st.sampled_from(_PIECES), max_size=20).map("".join))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    changes = {"prepare": {"size": 96}, "tune": {"trials": 3}}
    with suppress(MeddiffError):
        before = read_settings(text, "here")
        after = read_settings(edit_params(text, changes, "here"), "here")
        assert after == before | {section: before.get(section, {}) | own for section, own in changes.items()}
