"""No group and no near-duplicate crosses parts; old cases stay where they are; the dataset's own split holds."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff.cases import read_image
from meddiff.datasets.demo import make_phantoms
from meddiff.datasets.splits import (
    SPLITS,
    Member,
    Split,
    choose_labelled,
    merged_groups,
    near_duplicates,
    perceptual_hashes,
    split,
    thumbnail,
    with_unannotated,
)
from meddiff.errors import MeddiffError
from tests.conftest import SHARED_DATA

NONE = np.empty((0, 2), dtype=np.intp)


def members(n: int, per_group: int = 2) -> list[Member]:
    return [Member(f"c{i:03d}", f"g{i // per_group:03d}", True) for i in range(n)]


def place(result: Split) -> dict[str, str]:
    return {id: part for part, ids in result.parts.items() for id in ids}


cases = st.lists(st.tuples(st.integers(0, 14), st.booleans(), st.sampled_from([None, *SPLITS])), min_size=12, max_size=40)
links = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=6)


@settings(max_examples=150, deadline=None)
@given(cases, links, st.booleans())
def test_nothing_crosses_parts(drawn: list[tuple[int, bool, str | None]], near: list[tuple[int, int]], official: bool) -> None:
    # With an official split the groups are single images, as in ISIC; else groups are patients.
    items = [Member(f"c{i}", f"c{i}" if official else f"g{group}", lesion, part if official else None)
             for i, (group, lesion, part) in enumerate(drawn)]
    pairs = np.array([pair for pair in near if pair[0] != pair[1]], dtype=np.intp).reshape(-1, 2)
    try:
        result = split(items, pairs, 0.2, 0.2)
    except MeddiffError as e:
        if "must have a case" not in e.rule:
            raise
        return
    where = place(result)
    assert where.keys().isdisjoint(result.backgrounds)
    assert all(where.get(item.id) in (None, "val", "test") for item in items if not item.lesion)
    kept = {*where, *result.backgrounds}
    assert kept.isdisjoint({*result.dropped, *result.dropped_backgrounds})
    assert kept | {*result.dropped, *result.dropped_backgrounds} == {item.id for item in items}
    where |= dict.fromkeys(result.backgrounds, "train")
    related = [(items[i].id, items[j].id) for i, j in pairs] + \
              [(a.id, b.id) for a in items for b in items if a.group == b.group]
    for one, other in related:
        if one in where and other in where:
            assert where[one] == where[other]
    for item in items:
        assert not (item.part == "test" and where.get(item.id) != "test")   # never dropped from the test


def test_new_cases_move_no_old_ones() -> None:
    few, many = place(split(members(60), NONE, 0.2, 0.2)), place(split(members(200), NONE, 0.2, 0.2))
    assert all(many[id] == part for id, part in few.items())


def test_fractions_are_met_about_and_order_is_irrelevant() -> None:
    items = members(2000, 1)
    result = split(items, NONE, 0.15, 0.25)
    assert abs(len(result.parts["test"]) / 2000 - 0.25) < 0.04
    assert abs(len(result.parts["val"]) / 2000 - 0.15) < 0.04
    assert split(items[::-1], NONE, 0.15, 0.25).parts == result.parts


def test_few_groups_still_fill_every_part() -> None:
    for n in range(3, 12):
        assert all(split(members(n, 1), NONE, 0.05, 0.05).parts.values())


@pytest.mark.parametrize(("items", "fraction"), [(members(1), 0.2), (members(20), 0.0)])
def test_an_empty_part_is_refused(items: list[Member], fraction: float) -> None:
    with pytest.raises(MeddiffError, match="must have a case"):
        split(items, NONE, fraction, 0.2)


def test_a_group_parted_by_the_datasets_split_is_refused() -> None:
    items = [Member("a", "p", True, "train"), Member("b", "p", True, "test"), Member("c", "q", True, "val")]
    with pytest.raises(MeddiffError, match="`a` in `train` and `b` in `test`"):
        split(items, NONE, 0.2, 0.2)


def test_duplicates_of_the_official_test_leave_training() -> None:
    parts = {"a": "train", "b": "train", "v": "val", "w": "val", "t": "test"}
    items = [Member(name, name, True, part) for name, part in parts.items()]
    result = split(items, np.array([[0, 4], [2, 4]], dtype=np.intp), 0.2, 0.2)
    assert result.parts == {"train": ("b",), "val": ("w",), "test": ("t",)}
    assert result.dropped == ("a", "v")


def test_an_official_validation_part_alone_leaves_the_test_to_be_made() -> None:
    items = [Member(f"v{i}", f"v{i}", True, "val") for i in range(5)] + members(60, 1)
    result = split(items, NONE, 0.5, 0.25)
    assert set(result.parts["val"]) == {f"v{i}" for i in range(5)}
    assert 5 < len(result.parts["test"]) < 30


def test_lesion_free_relatives_are_in_the_same_part_and_backgrounds_in_training_alone() -> None:
    items = [*members(40), *[Member(f"n{i}", f"g{i:03d}", False) for i in range(20)]]
    result = split(items, NONE, 0.2, 0.3)
    where = place(result)
    assert not result.dropped_backgrounds
    assert {where[f"c{2 * i:03d}"] for i in range(20)} == set(SPLITS)
    for i in range(20):
        part = where[f"c{2 * i:03d}"]
        assert (f"n{i}" in result.backgrounds) == (part == "train")
        assert all((f"n{i}" in result.parts[held]) == (part == held) for held in ("val", "test"))


def test_a_lesion_free_copy_of_a_test_image_with_a_lesion_is_neither() -> None:
    items = [Member("a", "a", True, "train"), Member("v", "v", True, "val"), Member("t", "t", True, "test"),
             Member("copy", "copy", False), Member("said", "said", False, "test"), Member("double", "double", False)]
    result = split(items, np.array([[2, 3], [2, 4], [1, 5]], dtype=np.intp), 0.2, 0.2)
    assert result.dropped_backgrounds == ("copy", "double")
    assert result.parts["test"] == ("said", "t")        # what the dataset's own split says holds


def test_shares_of_the_lesion_free_groups_are_held_back_for_validation_and_test() -> None:
    free = [Member(f"n{i:04d}", f"p{i // 2:04d}", False) for i in range(1000)]
    for own in (False, True):   # also where the dataset's own split tells the cases alone
        lesions = [Member(case.id, case.group, True, SPLITS[i // 20] if own else None) for i, case in enumerate(members(60, 1))]
        result = split([*lesions, *free], NONE, 0.2, 0.25)
        held, seen = ({id for id in result.parts[part] if id.startswith("n")} for part in ("test", "val"))
        assert abs(len(held) / 1000 - 0.25) < 0.05
        assert abs(len(seen) / 1000 - 0.2) < 0.05
        assert len(held | seen | set(result.backgrounds)) == len(held) + len(seen) + len(result.backgrounds) == 1000
        assert all(f"n{int(id[1:]) ^ 1:04d}" in part for part in (held, seen) for id in part)    # whole groups
        assert not any(id.startswith("n") for id in result.parts["train"])
    more = split([*lesions, *free, *[Member(f"m{i}", f"m{i}", False) for i in range(50)]], NONE, 0.2, 0.25)
    assert held <= set(more.parts["test"])
    assert seen <= set(more.parts["val"])
    for part, fractions in (("test", (0.2, 0.0)), ("val", (0.0, 0.25))):
        given = [*lesions, Member("v", "v", True, "val"), Member("t", "t", True, "test")]
        assert not any(id.startswith("n") for id in split([*given, *free], NONE, *fractions).parts[part])


def test_the_test_keeps_its_lesion_free_images_whatever_validation_takes() -> None:
    items = [*[Member(f"c{i}", f"c{i}", True, SPLITS[i % 3]) for i in range(9)],
             *[Member(f"n{i}", f"n{i}", False) for i in range(40)]]
    parts = [split(items, NONE, share, 0.25).parts for share in (0.0, 0.2, 0.7)]
    assert parts[0]["test"] == parts[1]["test"] == parts[2]["test"]
    assert not any(id.startswith("n") for id in parts[0]["val"])
    assert len(parts[0]["val"]) < len(parts[1]["val"]) < len(parts[2]["val"])


@pytest.mark.parametrize(("n", "left"), [(5, 5), (8, 8), (9, 8), (12, 8)])
def test_eight_backgrounds_are_left_where_there_are_so_many(n: int, left: int) -> None:
    lesions = [Member(case.id, case.group, True, SPLITS[i % 3]) for i, case in enumerate(members(60, 1))]
    result = split([*lesions, *[Member(f"n{i}", f"n{i}", False) for i in range(n)]], NONE, 0.2, 0.99)
    assert len(result.backgrounds) == left
    assert sum(id.startswith("n") for part in ("val", "test") for id in result.parts[part]) == n - left


def test_parts_that_the_dataset_gives_lesion_free_images_hold() -> None:
    lesions = [Member(f"c{i}", f"c{i}", True, SPLITS[i % 3]) for i in range(9)]
    free = [Member(f"n{i}", f"n{i}", False, SPLITS[i % 3]) for i in range(60)]
    result = split([*lesions, *free, *[Member(f"u{i}", f"u{i}", False) for i in range(40)]], NONE, 0.2, 0.5)
    assert {id for id in result.parts["test"] if id[0] == "n"} == {f"n{i}" for i in range(2, 60, 3)}
    assert set(result.backgrounds) == {f"n{i}" for i in range(0, 60, 3)} | {f"u{i}" for i in range(40)}
    assert {id for id in result.parts["val"] if id[0] == "n"} == {f"n{i}" for i in range(1, 60, 3)}
    assert not result.dropped_backgrounds


def test_lesion_free_images_alone_make_no_test() -> None:
    items = [Member("c", "c", True, "train"), Member("v", "v", True, "val"), Member("n", "n", False, "test")]
    with pytest.raises(MeddiffError, match="the `test` part must have a case with a lesion"):
        split(items, NONE, 0.0, 0.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 24), min_size=1, max_size=30),
       st.lists(st.tuples(st.integers(0, 69), st.integers(0, 69)), max_size=12))
def test_images_without_annotation_join_the_training_alone(theirs: list[int], near: list[tuple[int, int]]) -> None:
    annotated = members(40)
    others = {f"u{i}": f"g{group:03d}" for i, group in enumerate(theirs)}
    n = len(annotated) + len(others)
    pairs = np.array([(a, b) for a, b in map(sorted, near) if a < b < n and b >= len(annotated)], dtype=np.intp).reshape(-1, 2)
    before = split(annotated, NONE, 0.2, 0.25)
    made = with_unannotated(before, annotated, others, pairs)
    assert place(made).items() >= place(before).items()
    assert set(made.unannotated) | set(made.dropped_unannotated) == set(others)
    assert set(made.parts["train"]) == set(before.parts["train"]) | set(made.unannotated)
    group = {case.id: case.group for case in annotated} | others
    held_out = {*made.parts["val"], *made.parts["test"]}
    assert {group[id] for id in made.unannotated}.isdisjoint(group[id] for id in held_out)
    assert {made.groups[id] for id in made.unannotated}.isdisjoint(made.groups[id] for id in held_out)
    ids = [*(case.id for case in annotated), *others]
    for a, b in pairs:
        assert not ({ids[a], ids[b]} & held_out and {ids[a], ids[b]} & set(made.unannotated))


def test_a_chain_of_images_without_annotation_leads_to_the_test_too() -> None:
    annotated = [Member(part, part, True, part) for part in SPLITS]
    others = {"near": "near", "next": "next", "patient": "patient", "relative": "patient", "other": "other"}
    pairs = np.array([(2, 3), (3, 4), (4, 5)])  # test - near - next - patient
    made = with_unannotated(split(annotated, NONE, 0.2, 0.25), annotated, others, pairs)
    assert made.parts == {"train": ("other", "train"), "val": ("val",), "test": ("test",)}
    assert made.dropped_unannotated == ("near", "next", "patient", "relative")


def test_groups_merge_transitively() -> None:
    assert merged_groups(["d", "b", "c", "a", "d"], np.array([[0, 1], [1, 2]], dtype=np.intp)) == ["b", "b", "b", "a", "b"]


def test_labelled_cases_are_of_each_group_in_turn_in_seeded_order() -> None:
    items = members(60)
    groups = {item.id: item.group for item in items}
    chosen = choose_labelled(groups, groups, 11, 0)
    assert len(chosen) == len({groups[id] for id in chosen}) == 11
    assert len({groups[id] for id in choose_labelled(groups, groups, 30, 0)}) == 30
    assert chosen == choose_labelled(reversed(list(groups)), groups, 11, 0)
    assert set(chosen) < set(choose_labelled(groups, groups, 20, 0))
    assert chosen != choose_labelled(groups, groups, 11, 1)
    assert len(choose_labelled(groups, groups, 99, 0)) == 60


def test_near_duplicates_survive_brightness_noise_and_rescaling() -> None:
    from PIL import Image

    images = [case.image for case in make_phantoms(8, True, 64, "mixed", 1)]
    rng = np.random.default_rng(0)
    changed = np.clip(images[0] * 0.8 + 10 + rng.normal(0, 3, images[0].shape), 0, 255).astype(np.uint8)
    larger = np.asarray(Image.fromarray(images[5]).resize((150, 150), Image.Resampling.BICUBIC))
    thumbnails = np.stack([thumbnail(image) for image in [*images, changed, larger]])
    assert near_duplicates(thumbnails, 4).tolist() == [[0, 8], [5, 9]]


def test_phantoms_of_different_patients_are_no_near_duplicates() -> None:
    phantoms = make_phantoms(140, True, 64, "mixed", 0)
    pairs = near_duplicates(np.stack([thumbnail(case.image) for case in phantoms]), 4)
    assert all(phantoms[i].group == phantoms[j].group for i, j in pairs)


def test_blank_images_are_no_duplicates_of_others() -> None:
    assert near_duplicates(np.zeros((2, 32, 32), np.float32), 4).tolist() == [[0, 1]]
    assert len(near_duplicates(np.stack([np.zeros((32, 32), np.float32), np.full((32, 32), 9, np.float32)]), 4)) == 0


def test_hash_ignores_brightness_and_contrast() -> None:
    thumbnails = np.random.default_rng(0).uniform(50, 150, (3, 32, 32)).astype(np.float32)
    assert np.array_equal(perceptual_hashes(thumbnails), perceptual_hashes(thumbnails * 1.5 + 20))
    assert len(set(perceptual_hashes(thumbnails).tolist())) == 3


def test_comparison_in_blocks_finds_pairs_across_blocks() -> None:
    thumbnails = np.random.default_rng(0).uniform(0, 255, (1200, 32, 32)).astype(np.float32)
    thumbnails[1100], thumbnails[700] = thumbnails[3], thumbnails[600]
    assert near_duplicates(thumbnails, 4).tolist() == [[3, 1100], [600, 700]]


@pytest.mark.real_data
def test_known_near_duplicates_of_busi_are_found() -> None:
    root = SHARED_DATA / "busi"
    if not root.is_dir():
        pytest.skip("the BUSI folder isn't here")
    known = json.loads((root / "groups.json").read_text())
    pairs = near_duplicates(np.stack([thumbnail(read_image(root / f"images/{id}.jpg")) for id in known]), 4)
    merged = dict(zip(known, merged_groups(list(known), pairs), strict=True))
    partners = [[id for id in known if known[id] == group] for group in set(known.values())]
    assert all(len({merged[id] for id in ids}) == 1 for ids in partners)
    assert max(np.unique(list(merged.values()), return_counts=True)[1]) < 10    # and nothing grows into one giant group


def test_no_part_lacks_a_class_that_enough_groups_have() -> None:
    """4 of 60 groups are of class 2: by chance alone validation or test would often hold none."""
    for start in range(0, 600, 60):
        items = [Member(f"c{i}", f"g{start + i}", True, None, 2 if i % 15 == 0 else 1) for i in range(60)]
        where = place(split(items, NONE, 0.15, 0.25))
        assert {where[item.id] for item in items if item.label == 2} == set(SPLITS)
        before = place(split([Member(item.id, item.group, True) for item in items], NONE, 0.15, 0.25))
        assert sum(where[id] != before[id] for id in where) <= 2    # the others stay where they were


def test_labelled_cases_hold_each_class_by_its_share() -> None:
    ids = [f"c{i:03d}" for i in range(100)]
    groups, labels = {id: id for id in ids}, {id: 3 if i == 50 else 1 + (i % 4 == 0) for i, id in enumerate(ids)}
    for seed in range(5):
        chosen = choose_labelled(ids, groups, 20, seed, labels)
        counts = [sum(labels[id] == label for id in chosen) for label in (1, 2, 3)]
        assert counts[2] == 1
        assert 4 <= counts[1] <= 6
        assert set(choose_labelled(ids, groups, 10, seed, labels)) <= set(chosen)
    assert choose_labelled(ids, groups, 20, 0, dict.fromkeys(ids, 1)) == choose_labelled(ids, groups, 20, 0)


def test_frames_of_few_videos_are_spread_over_all_of_them_and_within_each() -> None:
    groups = {f"v{video}_{frame:03d}": f"v{video}" for video in range(9) for frame in range(60)}
    chosen = choose_labelled(groups, groups, 40, 0)
    assert set(Counter(groups[id] for id in chosen).values()) == {4, 5}
    frames = [int(id[-3:]) for id in chosen]
    assert min(frames) < 20
    assert max(frames) > 40     # not the first of each
    for label in (1, 2):        # with the shares of two classes kept
        labels = {id: 1 + (int(id[-3:]) % 4 == 0) for id in groups}
        both = choose_labelled(groups, groups, 40, 0, labels)
        assert sum(labels[id] == label for id in both) == (30 if label == 1 else 10)
        assert len({groups[id] for id in both}) == 9


def test_the_choice_of_images_without_relatives_is_by_the_draw_of_their_names() -> None:
    """Published numbers keep their cases."""
    ids = [f"case{i:02d}" for i in range(12)]
    assert choose_labelled(ids, {id: id for id in ids}, 5, 3) == ("case00", "case03", "case06", "case07", "case08")
    labels = {id: 1 + (i % 3 == 0) for i, id in enumerate(ids)}
    assert choose_labelled(ids, {id: id for id in ids}, 5, 3, labels) == ("case00", "case06", "case07", "case08", "case10")


def test_a_near_duplicate_in_its_group_waits_until_no_other_case_is_left() -> None:
    groups = {id: id[0] for id in ("a1", "a2", "a3", "b1", "b2", "c1")}
    near = {frozenset(pair) for pair in (("a1", "a2"), ("b1", "b2"))}
    for seed in range(10):
        four = choose_labelled(groups, groups, 4, seed, near=near)
        assert {groups[id] for id in four} == {"a", "b", "c"}
        assert not any(pair <= set(four) for pair in near)
        assert "a3" in four
        assert set(choose_labelled(groups, groups, 6, seed, near=near)) == set(groups)
