"""Sites: which images without annotation get one, how they are cleared, the lesions drawn there, and what arms make of them."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import ks_2samp, spearmanr

from meddiff.backgrounds import sites
from meddiff.backgrounds.sites import find_sites
from meddiff.cases import Case, Frame, Pixels, read_image, read_mask, sha256, write_image, write_mask
from meddiff.diffusion.inpainting import to_tensor
from meddiff.layout import Layout
from meddiff.lesions import shapes
from meddiff.masks import placement
from meddiff.masks.model import MaskModel, fit_mask_model
from meddiff.masks.placement import Site, rank_sites
from meddiff.painting.synthesizer import Request, Synthesizer, bundle, load_bundle
from meddiff.params import BackgroundsParams, GenerateParams, MaskModelParams, Params, SegmentParams
from meddiff.segmentation.inspector import near_lesions
from meddiff.segmentation.metrics import dice
from meddiff.segmentation.segmenter import Architecture, Segmenter
from meddiff.stages import backgrounds as stage
from tests.conftest import make_cases
from tests.lesions.test_shapes import ellipse
from tests.pipelines import embedded
from tests.stages.test_backgrounds import Recorder, write_normal

SIDE = 64


def lesion(y: float, x: float, radius: float, label: int = 1) -> Pixels:
    return (ellipse(SIDE, y, x, radius, radius, 0) * label).astype(np.uint8)


def found(monkeypatch: pytest.MonkeyPatch, first: Pixels, second: Pixels, classes: int = 1, frame: Frame | None = None
          ) -> Pixels | None:
    """The site of an image in which two finders see these, the first one surely."""
    seen, sure = {"first": first, "second": second}, {"first": 0.95, "second": 0.7}
    monkeypatch.setattr(sites, "predicted", lambda images, who, known: np.stack([seen[who.architecture.network]] * len(images)))
    monkeypatch.setattr(sites, "probability", lambda images, who: np.stack(
        [np.where(seen[who.architecture.network] > 0, sure[who.architecture.network], 0.1)] * len(images)))
    one, other = (Segmenter(torch.nn.Identity(), Architecture(name, 4, classes)) for name in seen)
    case = Case("a", np.zeros((SIDE, SIDE, 3), np.uint8), None, frame=frame)
    both = find_sites([case, case], (one, other), agreement=0.75, largest=0.2)
    assert len(both) == 2
    assert both[0] is both[1] is None or np.array_equal(both[0], both[1])
    return both[0]


def test_a_site_is_what_two_finders_see_in_the_mean_where_they_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, near, far = lesion(30, 30, 10), lesion(31, 30, 10), lesion(30, 45, 10)
    hollow = seen.copy()
    hollow[30, 30] = 0
    hollow[2, 2] = 1
    site = found(monkeypatch, hollow, near)
    assert np.array_equal(site, seen), "without holes and specks"
    assert np.array_equal(found(monkeypatch, near, seen), near), "the surer one decides"
    assert found(monkeypatch, seen, far) is None
    assert found(monkeypatch, seen * 0, near) is None
    assert found(monkeypatch, seen, seen * 0) is None
    assert found(monkeypatch, seen * 0, seen * 0) is None
    assert found(monkeypatch, lesion(30, 30, 20), lesion(30, 30, 20)) is None, "too large"


def test_of_two_classes_both_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    both = lesion(20, 20, 8) + lesion(45, 45, 8, 2)
    assert np.array_equal(found(monkeypatch, both, both, classes=2), both)
    assert found(monkeypatch, both, lesion(20, 20, 8) + lesion(45, 45, 8), classes=2) is None


def test_what_is_seen_on_the_bars_of_padding_is_no_site(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = lesion(8, 30, 6)
    assert found(monkeypatch, seen, seen, frame=Frame(16, 0, 32, 64)) is None
    assert found(monkeypatch, seen, seen, frame=Frame(0, 0, 32, 64)) is not None


def test_finders_on_an_encoder_look_from_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Segmenter] = []
    lite = Architecture("encoder_unet", 16)

    def train(cases: list[Case], taught: list[Case], params: SegmentParams, seed: int, **_: object) -> Segmenter:
        assert {len(case.image) for case in [*cases, *taught]} == {128}
        assert (params.network, params.encoder, params.encoder_revision, params.steps) == ("encoder_unet", "a/b", "c", 7)
        torch.manual_seed(seed)
        built.append(Segmenter(lite.build().eval(), lite))
        return built[-1]

    monkeypatch.setattr(sites, "train_segmenter", train)
    settings = BackgroundsParams(finder_network="encoder_unet", finder_encoder="a/b", finder_encoder_revision="c", finder_steps=7,
                                 site_agreement=0.0, largest=1.0)
    known, others = make_cases(2, 192), [replace(case, mask=None) for case in make_cases(3, 192, seed=1)]
    search = sites.search_sites(others, settings, lambda name, fit, params, seed, taught, report: fit(
        known, params=params, seed=seed), "cpu")
    assert len(built) == 2
    assert all(case.mask is not None and case.mask.shape == (192, 192) for case in search)


def test_a_site_is_cleared_and_nothing_else() -> None:
    case = make_cases(1, SIDE, seed=5)[0]
    assert case.mask is not None
    image = sites.cleared(case, case.mask)
    assert image is not None
    near = near_lesions(case.mask)
    assert np.array_equal(image[~near], case.image[~near])
    inside, around = case.mask > 0, shapes.ndimage.binary_dilation(near, iterations=6) & ~near
    levels = [float(picture[where].mean()) for picture, where in ((case.image, inside), (image, inside), (image, around))]
    assert abs(levels[1] - levels[2]) < 0.3 * abs(levels[0] - levels[2])
    whole = np.ones((SIDE, SIDE), np.uint8)
    assert sites.cleared(case, whole) is None, "there is no texture to take"


@pytest.fixture(scope="module")
def model() -> MaskModel:
    masks = [case.mask for case in make_cases(12, SIDE) if case.mask is not None]
    return fit_mask_model(masks, MaskModelParams(steps=3, grid=16, batch_size=4), "cpu")[0]


def replaced(*masks: Pixels) -> list[Site | None]:
    return list(rank_sites(masks))


def test_invented_masks_take_the_site_but_not_its_outline(model: MaskModel) -> None:
    old = lesion(40, 25, 9)
    site, = replaced(old)
    masks = model.sample([0, 1, 2, 3], SIDE, sites=[site, site, None, site])
    for i in (0, 1, 3):
        common = (masks[i][old > 0] == 1).sum() / min(old.sum(), (masks[i] > 0).sum())
        assert common >= placement.COMMON
        assert shapes.pose_of(masks[i] > 0)[1:3] == pytest.approx([40 / SIDE, 25 / SIDE], abs=0.08)
    assert np.array_equal(masks[2], model.sample([2], SIDE)[0]), "a seed without site is what it was"
    assert np.array_equal(masks[3], model.sample([3], SIDE, sites=[site])[0])
    assert np.array_equal(model.sample([2], SIDE, sites=replaced(np.zeros_like(old)))[0], masks[2]), "nothing to replace"


def test_ranks_are_by_area_within_a_class() -> None:
    few = rank_sites([lesion(20, 20, 8) + lesion(45, 45, 6, 2), lesion(30, 30, 10), lesion(30, 30, 8), lesion(30, 30, 12)])
    assert [site.ranks for site in few] == [[0.25, 0.5], [0.625], [0.25], [0.875]]
    assert [part.label for part in few[0].parts] == [1, 2]


def test_a_rank_lends_the_training_lesion_of_that_size() -> None:
    poses = np.zeros((6, 5))
    poses[:, 0] = [-1, -3, -2, -5, -4, -6]
    lesions = placement.Lesions(np.arange(6), np.array([1, 1, 1, 2, 2, 2]), poses)
    assert [lesions.ranked(1, rank) for rank in (0.01, 0.5, 0.99)] == [1, 2, 0]
    assert lesions.ranked(2, 0.5) == 3
    assert lesions.ranked(3, 0.01) == 5, "a class that no training lesion has"


def test_sizes_at_sites_are_the_training_lesions(model: MaskModel) -> None:
    """Sites where all lesions are large, as a finder that overlooks small ones leaves them, don't make the new ones large."""
    large = replaced(*(lesion(32, 32, 12 + i / 4) for i in range(24)))
    masks = model.sample(range(24), SIDE, sites=large)
    sizes = np.array([shapes.pose_of(mask > 0)[0] for mask in masks])
    trained = model.lesions.poses[:, 0]
    assert ks_2samp(sizes, trained).pvalue > 0.2
    own = np.array([shapes.pose_of(site.parts[0].where)[0] for site in large if site is not None])
    assert own.min() > np.median(trained)
    assert spearmanr(sizes, own).statistic > 0.6, "their order stays"


def test_outlines_at_a_site_are_neither_its_own_nor_alike(model: MaskModel) -> None:
    old = (ellipse(SIDE, 34, 30, 14, 7, 0.6)).astype(np.uint8)
    sites = replaced(old) * 12
    masks = model.sample(range(12), SIDE, sites=sites) > 0
    grown = [shapes.ndimage.binary_dilation(old > 0, iterations=n) for n in range(4)]

    def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
        return float((a & b).sum() / (a | b).sum())

    assert np.median([max(overlap(mask, wide) for wide in grown) for mask in masks]) < 0.9
    assert np.median([overlap(a, b) for a, b in pairwise(masks)]) < 0.85
    for level in ("shape", "pose", "placement"):
        off = model.sample(range(12), SIDE, placement.MaskLevels(**{level: False}), sites=sites) > 0
        assert sum(np.array_equal(a, b) for a, b in zip(masks, off, strict=True)) < 4, level


def test_several_lesions_keep_their_classes_and_the_field(model: MaskModel) -> None:
    small = shapes.Shape.of(shapes.finer(shapes.disc(32)))
    two = shapes.parts(lesion(20, 20, 8) + lesion(45, 45, 6, 2))
    field = np.broadcast_to(np.arange(SIDE) >= 16, (SIDE, SIDE))
    mask = placement.replace([small, small], [0, 0], model.lesions, placement.ALL_LEVELS, two, field, 0)
    assert set(np.unique(mask)) == {0, 1, 2}
    assert not mask[~field].any()
    for part in two:
        mine = mask == part.label
        assert (mine & part.where).sum() >= 0.8 * min(mine.sum(), (part.where & field).sum())


def test_a_site_outside_of_the_field_gets_its_lesion_elsewhere(model: MaskModel) -> None:
    field = np.broadcast_to(np.arange(SIDE) >= 24, (SIDE, SIDE))
    mask, = model.sample([7], SIDE, fields=[field], sites=replaced(lesion(30, 8, 6)))
    assert mask.any()
    assert not mask[:, :20].any()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Ten annotated cases and fourteen others, and eight lesion-free images."""
    layout, cases = Layout(tmp_path), make_cases(24, seed=1)
    rows = []
    for i, case in enumerate(cases):
        write_image(layout.cases("train") / f"images/{case.id}.png", case.image)
        if i < 10 and case.mask is not None:
            write_mask(layout.cases("train") / f"masks/{case.id}.png", case.mask)
        rows.append({"id": case.id, "group": case.group, "labelled": int(i < 10), "image_sha256": "", "mask_sha256": ""})
    pd.DataFrame(rows).to_csv(layout.cases("train") / "cases.csv", index=False)
    embedded(torch.stack([to_tensor(case.image) for case in cases])).save_pretrained(layout.foundation)
    write_normal(layout, make_cases(8, seed=2, lesion=False))
    return layout


def run(layout: Layout, tiny: Params, **changes: object) -> tuple[pd.DataFrame, Recorder]:
    settings = tiny.backgrounds.model_copy(update={"inspector_steps": 150, "finder_steps": 150, "site_agreement": 0.5, **changes})
    recorder = Recorder()
    stage.run(layout, tiny.model_copy(update={"backgrounds": settings}), recorder)
    return pd.read_csv(layout.backgrounds / "backgrounds.csv", keep_default_na=False), recorder


def test_stage_finds_sites_and_uses_them_where_they_are_enough(
    layout: Layout, tiny: Params, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finders, lessons, train = [], list[int](), sites.train_finder

    def first(*args: Any, taught: list[Case], **given: Any) -> Any:
        lessons.append(len(taught))
        finders.append(train(*args, taught=taught, **given))
        return finders[-1]

    monkeypatch.setattr(sites, "train_finder", first)
    table, told = run(layout, tiny)
    at = table[table["source"].str.startswith("site:")]
    assert len(table) == 8 + len(at)
    assert len(at) >= sites.ENOUGH_SITES
    assert (told.values["unlabelled"], told.values["sites"], told.values["normal"]) == (14, len(at), 8)
    assert f"{len(at)} of 14 images without annotation show plainly where the lesion is" in capsys.readouterr().err
    truth, overlaps = {case.id: case.mask for case in make_cases(24, seed=1)}, []
    for row in at.itertuples():
        case = row.source.removeprefix("site:")
        assert int(case[-3:]) >= 10, "no annotated case"
        assert row.sha256 == sha256(layout.backgrounds / f"images/{row.id}.png")
        changed = (read_image(layout.backgrounds / f"images/{row.id}.png")
                   != read_image(layout.cases("train") / f"images/{case}.png")).any(axis=2)
        site = read_mask(layout.backgrounds / f"sites/{row.id}.png") > 0
        assert changed[site].any()
        assert not changed[~shapes.ndimage.binary_dilation(site, iterations=2)].any()
        overlaps.append(dice(read_mask(layout.backgrounds / f"sites/{row.id}.png"), truth[case]))
    assert np.mean(overlaps) > 0.7
    assert "sites.png" in told.files
    with Image.open(layout.backgrounds / "sites.png") as sheet:
        assert sheet.size == (8 * 32, -(-len(at) // 4) * 32)

    assert lessons == [0, 0]
    lessons.clear()
    once, (one, other) = told.values["sites"], finders  # these two again in the place of all that are trained below

    def again(*args: Any, taught: list[Case], **given: Any) -> Any:
        lessons.append(len(taught))
        return (other, one)[len(lessons) % 2]

    monkeypatch.setattr(sites, "train_finder", again)
    run(layout, tiny, finder_rounds=3)
    assert lessons == [0, 0, once, once, once, once]
    lessons.clear()
    table, told = run(layout, tiny, site_agreement=0.999)
    assert lessons == [0, 0], "the second round would have nothing to learn from"
    assert set(table["source"]) == {"normal"}
    assert told.values["unlabelled"] == 14
    assert "aren't used" in capsys.readouterr().err
    table, told = run(layout, tiny, finder_steps=0)
    assert set(table["source"]) == {"normal"}
    assert (told.values["unlabelled"], told.values["sites"]) == (0, 0)
    assert "without annotation" not in capsys.readouterr().err


@pytest.fixture
def synthesizer(model: MaskModel, tmp_path: Path) -> Synthesizer:
    """Two lesion-free backgrounds, and two with a site."""
    cases = make_cases(2, SIDE, seed=3)
    embedded(torch.stack([to_tensor(case.image) for case in make_cases(8, SIDE)])).save_pretrained(tmp_path / "generator")
    model.save(tmp_path / "mask_model")
    for case in make_cases(2, SIDE, seed=4, lesion=False):
        write_image(tmp_path / f"backgrounds/images/{case.id}.png", case.image)
    for case in cases:
        assert case.mask is not None
        write_image(tmp_path / f"backgrounds/images/{case.id}_site.png", case.image)
        write_mask(tmp_path / f"backgrounds/sites/{case.id}_site.png", case.mask)
    (tmp_path / "generator/meddiff.json").write_text('{"prompt": "a photo of hta"}')
    target = tmp_path / "bundle"
    bundle(target, tmp_path / "generator", tmp_path / "mask_model", tmp_path / "backgrounds", GenerateParams(steps=2))
    for name in ("generator", "mask_model", "backgrounds"):
        shutil.rmtree(tmp_path / name)
    return load_bundle(target, "cpu")[0]


def test_each_image_of_a_kind_has_its_turn_before_one_comes_again() -> None:
    free, at = [f"n{i}" for i in range(5)], [f"s{i}" for i in range(7)]
    image = np.zeros((16, 16, 3), np.uint8)
    made = Synthesizer(None, None, dict.fromkeys(sorted(free + at), image), dict.fromkeys(at, Site([], [])))  # type: ignore[arg-type]
    for share in (0.0, 0.25, 0.3, 0.5, 0.9, 1.0):
        for first in (0, 3, 999_998, 2_000_000_003):
            drawn = [made._background(first + i, share) for i in range(120)]
            assert abs(sum(name in at for name in drawn) - 120 * share) <= 1
            for names in (free, at):
                mine = [name for name in drawn if name in names]
                assert all(len(set(mine[i:i + len(names)])) == len(mine[i:i + len(names)]) for i in range(len(mine)))
    alone = Synthesizer(None, None, dict.fromkeys(free, image))  # type: ignore[arg-type]
    assert {alone._background(seed, 1.0) for seed in range(13, 18)} == set(free)


@pytest.mark.parametrize(("share", "kinds"), [(1.0, {True}), (0.0, {False}), (0.5, {True, False})])
def test_samples_are_painted_over_sites_for_their_share(synthesizer: Synthesizer, share: float, kinds: set[bool]) -> None:
    assert len(synthesizer.sites) == 2
    samples = synthesizer.sample([Request(seed) for seed in range(8)], GenerateParams(steps=2, site_share=share))
    assert {sample.background in synthesizer.sites for sample in samples} == kinds
    for sample in samples:
        ground = synthesizer.backgrounds[sample.background]
        assert np.isnan(sample.site_iou) == (sample.background not in synthesizer.sites)
        if sample.background in synthesizer.sites:
            part, = synthesizer.sites[sample.background].parts
            union = (sample.mask > 0) | part.where
            assert sample.site_iou == pytest.approx((sample.mask[part.where] > 0).sum() / union.sum())
            assert 0.2 < sample.site_iou < 1
            assert sample.mask[part.where].sum() >= 0.6 * min(part.where.sum(), (sample.mask > 0).sum())
        assert 0 < sample.likeness <= 1
        outside = ~shapes.ndimage.binary_dilation(sample.mask > 0, iterations=2)
        assert np.array_equal(sample.image[outside], ground[outside])


def test_a_given_background_has_no_site(synthesizer: Synthesizer) -> None:
    free = make_cases(1, SIDE, seed=9, lesion=False)[0].image
    given, = synthesizer.sample([Request(5, background=free)], GenerateParams(steps=2))
    assert given.background == "given"
    assert np.isnan(given.site_iou)
    drawn, = synthesizer.sample([Request(5, mask=given.mask)], GenerateParams(steps=2))
    assert drawn.background in synthesizer.sites
    assert np.isnan(drawn.site_iou), "that mask wasn't invented for the site"
    alone = synthesizer.masks.sample([5], SIDE)
    assert np.array_equal(given.mask, alone[0])


def test_no_site_comes_again_before_each_has_had_its_turn(synthesizer: Synthesizer) -> None:
    params = GenerateParams(steps=2)
    for first in range(0, 8, 2):
        pair = synthesizer.sample([Request(first), Request(first + 1)], params)
        assert {sample.background for sample in pair} == set(synthesizer.sites)
        again, = synthesizer.sample([Request(first + 1)], params)
        assert again.background == pair[1].background, "a sample depends on its own seed alone"
