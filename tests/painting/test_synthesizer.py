import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from meddiff import served
from meddiff.cases import Case, read_image, write_image, write_mask
from meddiff.diffusion.inpainting import to_tensor
from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.lesions.seams import seam
from meddiff.masks.model import fit_mask_model
from meddiff.outputs.samples import read_pair
from meddiff.painting.synthesizer import Plan, Request, Sample, Synthesizer, bundle, load_bundle
from meddiff.params import GenerateParams, MaskModelParams, Params
from meddiff.services.tracking import Unrecorded
from meddiff.stages import batches, generate
from tests.conftest import make_cases
from tests.pipelines import embedded
from tests.shards import images_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A project whose models are there, with random weights, and four lesion-free images."""
    layout = Layout(tmp_path_factory.mktemp("project"))
    labelled = make_cases(8)
    embedded(torch.stack([to_tensor(case.image) for case in labelled])).save_pretrained(layout.generator)
    (layout.generator / "meddiff.json").write_text(json.dumps({"prompt": "a photo of hta"}))
    masks = [case.mask for case in labelled if case.mask is not None]
    fit_mask_model(masks, MaskModelParams(steps=3, grid=16, batch_size=4), "cpu")[0].save(layout.mask_model)
    for case in make_cases(4, seed=1, lesion=False):
        write_image(layout.backgrounds / f"images/{case.id}.png", case.image)
    return layout


@pytest.fixture
def folder(layout: Layout, tmp_path: Path) -> Path:
    bundle(tmp_path, layout.generator, layout.mask_model, layout.backgrounds, GenerateParams(steps=3, batch_size=2))
    return tmp_path


def test_a_seed_gives_the_same_sample_whatever_the_batch(folder: Path) -> None:
    synthesizer, params = load_bundle(folder, "cpu")
    together = synthesizer.sample([Request(seed) for seed in range(5)], params)
    again = synthesizer.sample([Request(seed) for seed in range(5)], params)
    assert all(np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask) for a, b in zip(together, again, strict=True))
    mixed = synthesizer.sample([Request(4), Request(0), Request(2)], params.model_copy(update={"batch_size": 3}))
    for sample in mixed:
        same = together[sample.seed]
        assert (sample.id, sample.background) == (same.id, same.background)
        assert np.abs(sample.image.astype(int) - same.image).max() <= 1
        assert (sample.mask != same.mask).sum() <= 1
    assert len({sample.id for sample in together}) == 5


def test_a_stream_gives_the_same_and_looks_one_part_ahead(folder: Path) -> None:
    synthesizer, params = load_bundle(folder, "cpu")
    expected, asked = synthesizer.sample([Request(seed) for seed in range(6)], params), list[int]()

    def parts() -> Iterator[list[Request]]:
        for start in (0, 2, 4):
            asked.append(start)
            yield [Request(start), Request(start + 1)]

    made: list[Sample] = []
    for number, samples in enumerate(synthesizer.stream(parts(), params)):
        assert asked == [0, 2, 4][:number + 2]
        made += samples()
    assert [sample.id for sample in made] == [sample.id for sample in expected]
    assert all(np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask) for a, b in zip(made, expected, strict=True))
    assert synthesizer.sample([], params) == []


def test_what_goes_wrong_beside_the_network_is_told_and_an_interrupt_leaves_the_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesizer, params = load_bundle(folder, "cpu")
    finished = []

    def fail(*given: object) -> None:
        finished.append(given)
        raise ValueError("seam")

    monkeypatch.setattr("meddiff.painting.painter.join", fail)
    with pytest.raises(ValueError, match="seam"):
        synthesizer.sample([Request(0)], params)
    monkeypatch.setattr("meddiff.painting.painter.join", lambda *given: time.sleep(0.2) or finished.append(given))
    stream, threads = synthesizer.stream([[Request(seed) for seed in range(8)]], params.model_copy(update={"batch_size": 8})), 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    next(stream)
    stream.close()
    assert len(finished) < 4


def test_batches_are_split_evenly() -> None:
    def sizes(n: int) -> list[int]:
        requests, images = [Request(seed) for seed in range(n)], [np.zeros((1, 1), np.uint8)] * n
        batches = list(Plan(requests, [""] * n, images, images, [0.0] * n, [0.0] * n).batches(16))
        assert [seed for *_, seeds in batches for seed in seeds] == list(range(n))
        return [len(seeds) for *_, seeds in batches]

    assert [sorted(sizes(n)) for n in (0, 7, 16, 25, 40)] == [[], [7], [16], [12, 13], [13, 13, 14]]


def test_given_mask_and_background_are_used(folder: Path, cases: Callable[..., list[Case]]) -> None:
    synthesizer, params = load_bundle(folder, "cpu")
    mask, ground = cases(1, seed=3)[0].mask, cases(1, seed=4, lesion=False)[0].image
    sample = synthesizer.sample([Request(1, mask, ground)], params)[0]
    assert np.array_equal(sample.mask, mask)
    assert sample.background == "given"
    assert np.array_equal(sample.image[0], ground[0])
    with pytest.raises(MeddiffError, match="32×32"):
        synthesizer.sample([Request(1, np.ones((16, 16), np.uint8))], params)


def test_masks_are_invented_within_the_background(folder: Path, cases: Callable[..., list[Case]]) -> None:
    synthesizer, params = load_bundle(folder, "cpu")
    ground = cases(1, seed=4, lesion=False)[0].image.copy()
    ground[:, :16] = 0
    requests = [Request(seed, background=ground) for seed in range(8)]
    for sample in synthesizer.sample(requests, params.model_copy(update={"steps": 1})):
        assert sample.mask.any()
        assert (sample.mask[:, :14] > 0).sum() <= 0.06 * sample.mask.sum()
    free = synthesizer.masks.sample(range(8), 32)
    assert (free[:, :, :14] > 0).sum() > 0.2 * free.sum(), "the background decides"


def test_served_model_answers_a_table_of_requests(folder: Path, cases: Callable[..., list[Case]]) -> None:
    model = served._load_pyfunc(str(folder))
    stream = io.BytesIO()
    mask = cases(1, seed=3)[0].mask
    Image.fromarray(mask * np.uint8(255)).save(stream, format="PNG")
    table = model.predict(
        pd.DataFrame({"seed": [5, 6, 7], "guidance_scale": [1.0, np.nan, 3.0], "mask": [None, stream.getvalue(), None]})
    )
    assert list(table["seed"]) == [5, 6, 7]
    assert np.array_equal(np.array(Image.open(io.BytesIO(table["mask"][1]))), mask * 255)
    synthesizer, params = load_bundle(folder, "cpu")
    alone = synthesizer.sample([Request(7)], params.model_copy(update={"guidance_scale": 3.0}))[0]
    assert np.abs(np.array(Image.open(io.BytesIO(table["image"][2]))).astype(int) - alone.image).max() <= 1
    with pytest.raises(MeddiffError, match="seed"):
        model.predict(pd.DataFrame({"guidance_scale": [1.0]}))


def test_stage_records_how_visible_the_borders_are(layout: Layout, tiny: Params) -> None:
    values: dict[str, float] = {}

    class Recorder(Unrecorded):
        def metrics(self, new: Mapping[str, float], step: int | None = None) -> None:
            values.update(new)

    generate.run(layout, tiny, Recorder())
    table = pd.concat(pd.read_parquet(path) for path in sorted(layout.synthetic.glob("*/batch.parquet")))
    grounds = {path.stem: read_image(path) for path in layout.backgrounds.glob("images/*.png")}
    found = [
        seam(
            *read_pair(layout.synthetic, row.batch, row.id),
            grounds[row.background],
            tiny.generate.rim,
        )
        for row in table.itertuples()
    ]
    assert values["seam"] == pytest.approx(np.mean(found))
    assert values["seam"] < values["seam_p95"] <= max(found)


def test_stage_tells_how_alike_masks_are_to_what_was_there(layout: Layout, tiny: Params, tmp_path: Path) -> None:
    values: dict[str, float] = {}

    class Recorder(Unrecorded):
        def metrics(self, new: Mapping[str, float], step: int | None = None) -> None:
            values.update(new)

    shutil.copytree(layout.root, tmp_path / "own")
    own = Layout(tmp_path / "own")
    generate.run(own, tiny, Recorder())
    assert pd.concat(map(pd.read_parquet, own.synthetic.glob("*/batch.parquet")))["site_iou"].isna().all()
    assert not any(name.startswith("site_iou") for name in values)

    found = make_cases(2, seed=7)
    for case in found:
        assert case.mask is not None
        write_image(own.backgrounds / f"images/{case.id}.png", case.image)
        write_mask(own.backgrounds / f"sites/{case.id}.png", case.mask)
    generate.run(own, tiny.model_copy(update={"generate": tiny.generate.model_copy(update={"site_share": 0.5})}), Recorder())
    table = pd.concat(map(pd.read_parquet, sorted(own.synthetic.glob("*/batch.parquet")))).set_index("id")
    at = table[table["background"].isin([case.id for case in found])]
    assert len(at) == 4
    assert table["site_iou"].notna().equals(table.index.to_series().isin(at.index))
    known = {case.id: case.mask for case in found}
    for row in at.itertuples():
        mask, old = read_pair(own.synthetic, row.batch, row.Index)[1] > 0, known[row.background] > 0
        assert row.site_iou == pytest.approx((mask & old).sum() / (mask | old).sum())
    assert values["site_iou_mean"] == pytest.approx(at["site_iou"].mean())
    assert values["site_iou_max"] == pytest.approx(at["site_iou"].max())


def test_stage_writes_batches_and_resumes_them(layout: Layout, tiny: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    generate.run(layout, tiny, Unrecorded())
    table = pd.concat(pd.read_parquet(path) for path in sorted(layout.synthetic.glob("*/batch.parquet")))
    assert list(table["seed"]) == list(range(8))
    assert sorted(table["batch"].unique()) == ["b0000", "b0001"]
    before = images_of(layout)
    assert len(before) == 8
    assert not calls_of(layout, tiny, monkeypatch), "what DVC may yet lose isn't made again"
    shutil.rmtree(layout.work / "generate")

    write, calls = batches.keep_batch, []

    def interrupted(folder: Path, *rest: object) -> int:
        calls.append(folder)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(folder, *rest)

    monkeypatch.setattr(batches, "keep_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate.run(layout, tiny, Unrecorded())
    assert images_of(layout) == before, "an interrupted run leaves the old output"
    generate.run(layout, tiny, Unrecorded())
    assert len(calls) == 3, "the finished batch is not made again"
    assert images_of(layout) == before


def calls_of(layout: Layout, params: Params, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The batches that another run of the stage writes."""
    written: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(batches, "keep_batch", lambda *given: written.append(given) or 0)
        generate.run(layout, params, Unrecorded())
    return written


def test_ctrl_c_stops_the_stage_and_it_goes_on(layout: Layout, tiny: Params, tmp_path: Path) -> None:
    for name in ("models", "backgrounds"):
        shutil.copytree(layout.root / name, tmp_path / name)
    many = tiny.generate.model_copy(update={"n": 40, "samples_per_batch": 4})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny.model_copy(update={"generate": many}).model_dump(mode="json")))
    code = ("import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "sys.argv = ['meddiff', 'generate']\nfrom meddiff.__main__ import main\nmain()")

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    with started() as process:
        while not (first := list(tmp_path.glob(".work/generate/*/b0000"))):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.endswith("meddiff: interrupted; the same command goes on where it stopped\n")
    made = (first[0] / "batch.parquet").stat().st_mtime_ns
    with started() as process:
        _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert "generate: 40/40" in told
    assert (tmp_path / "synthetic/b0000/batch.parquet").stat().st_mtime_ns == made
    assert len(images_of(Layout(tmp_path))) == 40


def test_a_bundle_keeps_its_settings_and_computes_in_bfloat16_only_where_that_is_in_hardware(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = GenerateParams(steps=3, mask_randomness=("noise", "pose"), precision="bfloat16")
    bundle(tmp_path, tmp_path / "nothing", tmp_path / "nothing", tmp_path / "nothing", made)
    for able, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("meddiff.painting.synthesizer.has_bfloat16", lambda device, able=able: able)
        assert load_bundle(tmp_path, "cpu")[1] == made.model_copy(update={"precision": precision})


def test_a_bundle_of_an_older_version_loads_and_one_of_a_newer_is_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    settings = tmp_path / "generate.json"
    old = {"n": 9, "precision": "float32", "mask_noise": True, "mask_condition": True, "mask_shape": False, "mask_pose": True,
           "mask_placement": True, "seed": 3}
    settings.write_text(json.dumps(old))
    assert load_bundle(tmp_path, "cpu")[1] == GenerateParams(n=9, mask_randomness=("noise", "condition", "pose", "placement"))
    settings.write_text(json.dumps({"n": 9, "colour": "red"}))
    with pytest.raises(MeddiffError, match=r"generate\.json: there is no setting `generate.colour`"):
        load_bundle(tmp_path, "cpu")


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match="generator bundle"):
        load_bundle(tmp_path, "cpu")
    with pytest.raises(MeddiffError, match="at least one background"):
        Synthesizer.load(tmp_path, tmp_path, tmp_path, "cpu")
