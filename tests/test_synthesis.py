import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from meddiff.cases import Case, read_image, read_mask, write_image, write_mask
from meddiff.errors import MeddiffError
from meddiff.inpainting import to_tensor
from meddiff.layout import Layout
from meddiff.mask_model import fit_mask_model
from meddiff.params import GenerateParams, MaskModelParams, Params
from meddiff.seams import seam
from meddiff.served import _load_pyfunc
from meddiff.stages import generate
from meddiff.synthesis import Request, Synthesizer, bundle, load_bundle
from meddiff.tracking import Unrecorded
from tests.conftest import make_cases
from tests.pipelines import embedded


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
    model = _load_pyfunc(str(folder))
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
            read_image(layout.synthetic / row.batch / f"images/{row.id}.png"),
            read_mask(layout.synthetic / row.batch / f"masks/{row.id}.png"),
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
        mask, old = read_mask(own.synthetic / row.batch / f"masks/{row.Index}.png") > 0, known[row.background] > 0
        assert row.site_iou == pytest.approx((mask & old).sum() / (mask | old).sum())
    assert values["site_iou_mean"] == pytest.approx(at["site_iou"].mean())
    assert values["site_iou_max"] == pytest.approx(at["site_iou"].max())


def test_stage_writes_batches_and_resumes_them(layout: Layout, tiny: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    generate.run(layout, tiny, Unrecorded())
    table = pd.concat(pd.read_parquet(path) for path in sorted(layout.synthetic.glob("*/batch.parquet")))
    assert list(table["seed"]) == list(range(8))
    assert sorted(table["batch"].unique()) == ["b0000", "b0001"]
    before = {path.name: path.read_bytes() for path in layout.synthetic.rglob("*.png") if path.parent.name == "images"}
    assert len(before) == 8

    write, calls = generate._write, []

    def interrupted(folder: Path, *rest: object) -> None:
        calls.append(folder)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(folder, *rest)

    monkeypatch.setattr(generate, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate.run(layout, tiny, Unrecorded())
    assert {path.name for path in layout.synthetic.rglob("images/*.png")} == set(before), (
        "an interrupted run leaves the old output"
    )
    generate.run(layout, tiny, Unrecorded())
    assert len(calls) == 3, "the finished batch is not made again"
    after = {path.name: path.read_bytes() for path in layout.synthetic.rglob("images/*.png")}
    assert after == before


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match="generator bundle"):
        load_bundle(tmp_path, "cpu")
    with pytest.raises(MeddiffError, match="at least one background"):
        Synthesizer.load(tmp_path, tmp_path, tmp_path, "cpu")
