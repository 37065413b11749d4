"""Who is of one patient: a file beside the images, a pattern of names, an offer, and names that no file or table should hold."""

import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from meddiff.datasets.adapters import LeftOut, decode, offer_groups, passed_over, read, tell_left_out
from meddiff.datasets.adapters.groups import propose_pattern
from meddiff.errors import MeddiffError
from meddiff.params import PrepareParams

Spoil = Callable[[Path], object]


def pair(root: Path, image: str, mask: str | None = None) -> None:
    """An image, and a mask whose upper left quarter is the lesion."""
    for folder, name in (("images", image), ("masks", mask or image)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        picture = Image.new("L", (16, 12), 90 if folder == "images" else 0)
        if folder == "masks":
            picture.paste(255, (0, 0, 8, 6))
        picture.save(root / folder / f"{name}.png")


def named(root: Path, *names: str) -> Path:
    for name in names:
        pair(root, name)
    return root


def normal(root: Path, *names: str, folder: str = "normal") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("L", (16, 12), 80).save(root / folder / f"{name}.png")


def groups(root: Path, pattern: str = "") -> dict[str, str]:
    return {case.id: case.group for case in read("folder", root, group_pattern=pattern)}


def write(name: str, text: str) -> Spoil:
    return lambda root: (root / name).write_text(text, encoding="utf-8")


NFC = unicodedata.normalize("NFC", "lésion Å")
NFD = unicodedata.normalize("NFD", "lésion Å")


# ---- names

@pytest.mark.parametrize(("image", "mask", "id"), [
    ("a b  c", "a b  c", "a b  c"),
    (" leading and trailing ", " leading and trailing ", " leading and trailing "),
    ("患者_12", "患者_12", "患者_12"),
    ("пациент 3", "пациент 3", "пациент 3"),
    ("مريض٣", "مريض٣", "مريض٣"),
    ("🩺x", "🩺x", "🩺x"),
    (NFD, NFC, NFC),
    (NFC, NFD, NFC),
    (NFD, NFD, NFC),
    ("각", unicodedata.normalize("NFD", "각"), "각"),
    ("a.b.c", "a.b.c", "a.b.c"),
    ("NA", "NA", "NA"),
    ("007", "007", "007"),
    ("-12", "-12", "-12"),
    ("+3.5", "+3.5", "+3.5"),
    ("x=1", "x=1", "x=1"),
    ('a,"b";c', 'a,"b";c', 'a,"b";c'),
    ("100% #1 'q' `t` $HOME", "100% #1 'q' `t` $HOME", "100% #1 'q' `t` $HOME"),
    ("..", "..", ".."),
])
def test_names_of_all_kinds_are_read(image: str, mask: str, id: str, tmp_path: Path) -> None:
    if image == "..":  # hidden, on every system
        named(tmp_path, "a")
        pair(tmp_path, "..x")
        assert [case.id for case in read("folder", tmp_path)] == ["a"]
        return
    pair(tmp_path, image, mask)
    (case,) = read("folder", tmp_path)
    assert case.id == id
    found = decode(case).mask
    assert found is not None
    assert found.sum() == 48


def test_ids_may_differ_in_capitals_alone_and_mean_nothing(tmp_path: Path) -> None:
    named(tmp_path, "NaN", "nan", "NA", "null")
    assert [case.id for case in read("folder", tmp_path)] == ["NA", "NaN", "nan", "null"]


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda root: named(root, "=cmd|' -C calc'!A0"), "must not begin with = .*`=cmd"),
    (lambda root: named(root, "@SUM(A1)"), "must not begin with = .*`@SUM"),
    (lambda root: named(root, "-1+2"), "must not begin with = .*`-1\\+2"),
    (lambda root: named(root, "+x"), "must not begin with ="),
    (write("groups.json", '{"a": "=HYPERLINK(1)", "b": "p"}'), "must not begin with = .*`=HYPERLINK"),
    (write("groups.csv", "id,group\na,@x\nb,p\n"), "must not begin with = .*`@x"),
    (lambda root: named(root, "a\nb"), "a name must hold no control character"),
    (lambda root: named(root, os.fsdecode(b"l\xe9sion")), "the name of a file must be UTF-8"),
    (lambda root: named(root, "x" * 201), "at most 200 bytes"),
    (lambda root: named(root, NFC, NFD), "has it too, but for the encoding of its letters"),
    (lambda root: normal(root, "a"), "ids must be unique"),
    (lambda root: (root / "masks/a.png").rename(root / "masks/A-b.png"), r"have its mask `masks/a.png`; there is A-b.png"),
    (lambda root: (root / "masks/a.png").rename(root / "masks/a_mask.png"), "there is a_mask.png instead: both must"),
    (lambda root: [(root / f"masks/{id}.png").unlink() for id in "ab"], "a.png: an image must have its mask.*likewise b"),
    (write("groups.json", '{"a": "p", "a": "q", "b": "p"}'), "a name must stand once, `a` has two values"),
    (write("groups.csv", "id,group\na,p\nb,q\na,q\n"), "a name must stand once, `a` has two values"),
    (write("groups.json", '{"a": ["p"], "b": "p"}'), "each id has one group's name"),
    (write("groups.json", "[" * 100_000), "the file must be JSON"),
    (write("groups.json", '{"a": "", "b": "p"}'), "every image must have its group, `a` has none"),
    (write("groups.csv", "id,group\na,\nb,\n"), "every image must have its group, `a` has none; likewise b"),
    (write("groups.csv", "name,patient\na,p\n"), "the first line must name the columns id and group"),
    (write("groups.csv", ""), "the first line must name the columns"),
    (lambda root: (root / "groups.csv").write_bytes(b"id,group\na,\xe9\n"), "the file must be CSV in UTF-8"),
    (lambda root: (write("groups.csv", "id,group\n")(root), write("groups.json", "{}")(root)), "one file must name the groups"),
    (lambda root: (root / "images/a.png").unlink() or (root / "images/a.png").symlink_to(root / "nowhere"), "nothing"),
])
def test_bad_names_and_files_are_one_line(spoil: Spoil, message: str, tmp_path: Path) -> None:
    named(tmp_path, "a", "b")
    spoil(tmp_path)
    if message == "nothing":  # a link that leads nowhere has a name; it fails where it is opened
        with pytest.raises(MeddiffError, match=r"a\.png: an image must be there"):
            decode(read("folder", tmp_path)[0])
        return
    with pytest.raises(MeddiffError, match=message) as caught:
        read("folder", tmp_path)
    assert " ".join(str(caught.value).split()).isprintable()


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    named(tmp_path / "store", "a")
    normal(tmp_path / "store/extra", "n", folder="deep")
    root = tmp_path / "raw"
    (root / "images").mkdir(parents=True)
    (root / "images/a.png").symlink_to(tmp_path / "store/images/a.png")
    (root / "masks").symlink_to(tmp_path / "store/masks")
    (root / "unlabelled").symlink_to(tmp_path / "store/extra")
    cases = read("folder", root)
    assert [case.id for case in cases] == ["a"]
    assert [each.id for each in passed_over("folder", root, cases)] == ["unlabelled/deep/n.png"]


# ---- groups

@pytest.mark.parametrize("text", [
    "id,group\na,p\nb,p\nn,q\n", "group;id\np;a\np;b\nq;n\n", "\ufeffID\tNote\tGroup\na\t\tp\nb\tx\tp\nn\t\tq\n",
    "id,group\n\"a\",p\r\n b , p \r\nn.png,q\r\n\r\n",
])
def test_groups_from_a_csv(text: str, tmp_path: Path) -> None:
    normal(named(tmp_path, "a", "b"), "n")
    (tmp_path / "groups.csv").write_text(text, encoding="utf-8", newline="")
    assert groups(tmp_path) == {"a": "p", "b": "p", "n": "q"}


@pytest.mark.parametrize("name", ["groups.json", "Groups.json", "GROUPS.JSON"])
def test_groups_from_json_in_any_capitals_by_id_or_file(name: str, tmp_path: Path) -> None:
    named(tmp_path, "a", "b", NFD)
    (tmp_path / name).write_text(json.dumps({"a.png": "p", "b": 7, NFD: NFD}))
    assert groups(tmp_path) == {"a": "p", "b": "7", NFC: NFC}


def test_what_groups_name_without_an_image_is_told_and_never_opened(tmp_path: Path) -> None:
    named(tmp_path, "a")
    strange = ["../../etc/passwd", "/etc/passwd", "a/../a", "b"]
    (tmp_path / "groups.json").write_text(json.dumps({"a": "p"} | dict.fromkeys(strange, "p")))
    cases = read("folder", tmp_path)
    assert [(case.id, case.group) for case in cases] == [("a", "p")]
    left = passed_over("folder", tmp_path, cases)
    assert [(each.id, each.what) for each in left] == [(name, "name") for name in strange]
    assert tell_left_out(left) == ["4 names have no image (../../etc/passwd, /etc/passwd, a/../a and 1 more): correct or remove "
                                   "them in groups.json"]


def test_lesion_free_images_without_a_group_are_told_and_a_pattern_names_them(tmp_path: Path) -> None:
    normal(named(tmp_path, "p1_a", "p1_b", "p2_a"), "p1_n", "p2_n")
    (tmp_path / "groups.json").write_text(json.dumps({"p1_a": "one", "p1_b": "one", "p2_a": "two"}))
    cases = read("folder", tmp_path)
    assert [case.group for case in cases if case.lesion_free] == ["", ""]
    assert re.match(r"WARNING: the patients of 2 of 5 images aren't known \(p1_n, p2_n\)", offer_groups(cases)[0])
    assert groups(tmp_path, r"^(p\d+)") == {"p1_a": "one", "p1_b": "one", "p2_a": "two", "p1_n": "p1", "p2_n": "p2"}


def test_a_pattern_takes_the_first_bracket_that_matches_and_must_match_all(tmp_path: Path) -> None:
    normal(named(tmp_path, "patient_1_a", "patient_1_b"), "healthy7")
    assert groups(tmp_path, r"^(patient_\d+)|(healthy\d+)") == {
        "patient_1_a": "patient_1", "patient_1_b": "patient_1", "healthy7": "healthy7"}
    assert set(groups(tmp_path, r"\d+").values()) == {"1", "7"}
    with pytest.raises(MeddiffError, match=r"group_pattern: the pattern must find a group in every name, in `healthy7` it"):
        groups(tmp_path, r"^(patient_\d+)")
    with pytest.raises(ValueError, match="it must be a regular expression"):
        PrepareParams(group_pattern="(")


def test_groups_of_published_layouts_may_be_named_too(tmp_path: Path) -> None:
    for folder in ("benign", "malignant", "normal"):
        (tmp_path / folder).mkdir()
        Image.new("L", (16, 12), 90).save(tmp_path / folder / f"{folder} (1).png")
        mask = Image.new("L", (16, 12), 0 if folder == "normal" else 255)
        mask.save(tmp_path / folder / f"{folder} (1)_mask.png")
    assert [case.group for case in read("busi", tmp_path)] == ["", "", ""]
    (tmp_path / "groups.csv").write_text("id,group\nbenign_001,p\nmalignant (1),p\nnormal (1).png,q\n")
    assert [case.group for case in read("busi", tmp_path)] == ["p", "p", "q"]


@pytest.mark.parametrize(("ids", "pattern"), [
    ([f"patient_{p}_frame_{f}" for p in (1, 2, 12) for f in range(4)], r"^(patient_\d+)"),
    ([f"P{p:03d}-{side}" for p in range(6) for side in ("left", "right")], r"^(P\d+)"),
    ([f"{p}_{f}" for p in range(1, 6) for f in (1, 2)], r"^(\d+)"),
    ([f"st. {p} ({f})" for p in range(1, 6) for f in (1, 2)], r"^(st\. \d+)"),
    ([f"frame_{f}_patient_{p}" for p in range(6) for f in (1, 2)], ""),   # which number is the patient?
    ([f"ISIC_{i:07d}" for i in range(12)], ""),
    ([f"case_0_{i:03d}" for i in range(12)], ""),                         # one stem
    ([f"2020_{p}_{f}" for p in range(6) for f in (1, 2)], ""),            # three numbers
    ([f"p{p}_a" for p in range(12)], ""),                                 # nothing shared
    ([f"{name}{p}_{f}" for name in "ab" for p in range(3) for f in (1, 2)], ""),
    (["left", "right", "p1_1", "p1_2"], ""),
])
def test_a_pattern_is_offered_where_names_plainly_share_stems(ids: list[str], pattern: str, tmp_path: Path) -> None:
    assert propose_pattern(ids) == pattern
    if pattern:
        assert all(re.search(pattern, id) for id in ids)
        named(tmp_path, *ids)
        warning, offer = offer_groups(read("folder", tmp_path))
        assert warning.startswith(f"WARNING: the patients of {len(ids)} images aren't known")
        assert f"--group-pattern '{pattern}'" in offer
        assert len(set(groups(tmp_path, pattern).values())) == len({re.search(pattern, id)[0] for id in ids})  # type: ignore[index]


# ---- what isn't read

def place(*names: str) -> Spoil:
    def put(root: Path) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"x")
    return put


@pytest.mark.parametrize(("names", "lines"), [
    (["images/c.gif", "images/d.GIF"], [r"2 files aren't read \(images/c.gif, images/d.GIF\): save it as PNG"]),
    (["unlabelled/1.dcm", "unlabelled/2.dcm"], [r"2 files aren't read \(unlabelled/1.dcm.*: DICOM is read from a folder"]),
    (["unlabelled/IM000001"], [r"1 file isn't read \(unlabelled/IM000001\)"]),
    (["images/batch/c.png", "masks/batch/c.png"], [r"1 file isn't read \(images/batch/c.png\): only", "masks/batch/c.png"]),
    (["Groups.json.txt", "patients.xlsx"], [r"2 files aren't read \(Groups.json.txt, patients.xlsx\).*groups.csv"]),
    (["imgs/c.png"], [r"1 file isn't read \(imgs/c.png\): only images/"]),
    (["c.jpg"], [r"1 file isn't read \(c.jpg\): only images/"]),
    (["scan.zip"], ["unpack it"]),
    (["volume.nii"], ["volumes are read from a folder of their own"]),
    (["images/._a.png", ".DS_Store", "images/Thumbs.db", "__MACOSX/images/a.png", ".hidden/x.png", "@eaDir/a.png"], []),
])
def test_what_is_passed_over_is_named_and_counted(names: list[str], lines: list[str], tmp_path: Path) -> None:
    named(tmp_path, "a", "b")
    place(*names)(tmp_path)
    cases = read("folder", tmp_path)
    assert [case.id for case in cases] == ["a", "b"]
    told = tell_left_out(passed_over("folder", tmp_path, cases))
    assert len(told) == len(lines)
    assert all(re.search(line, text) for line, text in zip(lines, told, strict=True)), told


def test_what_is_passed_over_is_listed_harmlessly(tmp_path: Path) -> None:
    """In a table that a spreadsheet may open, and in UTF-8."""
    named(tmp_path, "a")
    place("=1+1.txt", os.fsdecode(b"l\xe9sion.txt"), "x\ny.txt")(tmp_path)
    (tmp_path / "groups.json").write_text(json.dumps({"a": "p", "@SUM(A1)": "p"}))
    left = passed_over("folder", tmp_path, read("folder", tmp_path))
    assert sorted(each.id for each in left) == ["'=1+1.txt", "'@SUM(A1)", "l�sion.txt", "x�y.txt"]


def test_other_spellings_and_webp_are_read(tmp_path: Path) -> None:
    named(tmp_path, "a")
    (tmp_path / "images").rename(tmp_path / "Images")
    (tmp_path / "masks").rename(tmp_path / "MASKS")
    normal(tmp_path, "u", folder="unlabeled")
    normal(tmp_path, "n", folder="Normal")
    Image.new("RGB", (16, 12)).save(tmp_path / "Images/w.WEBP", lossless=True)
    Image.new("L", (16, 12), 255).save(tmp_path / "MASKS/w.webp", lossless=True)
    cases = read("folder", tmp_path)
    assert [(case.id, case.annotated, case.lesion_free) for case in cases] == [
        ("a", True, False), ("n", True, True), ("u", False, False), ("w", True, False)]
    assert passed_over("folder", tmp_path, cases) == []
    found = decode(cases[-1]).mask
    assert found is not None
    assert found.all()
    normal(tmp_path, "v", folder="unlabelled")   # the right name counts where both are there, and the other is told
    cases = read("folder", tmp_path)
    assert [case.id for case in cases if not case.annotated] == ["v"]
    assert [each.id for each in passed_over("folder", tmp_path, cases)] == ["unlabeled/u.png"]


def test_folders_that_differ_on_both_sides_say_what_they_hold(tmp_path: Path) -> None:
    for name in ("images/p1/a.png", "masks/p2/a.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (16, 12)).save(tmp_path / name)
    with pytest.raises(MeddiffError, match=r"must hold an image, but 1 file isn't read \(images/p1/a.png\): only images/"):
        read("folder", tmp_path)


@pytest.mark.parametrize(("made", "instead"), [("images/00.dcm", "00.dcm instead: both must be of one kind"),
                                              ("images/00.gif", "00.gif instead: save it as PNG")])
def test_a_mask_whose_image_is_of_another_kind_says_so(made: str, instead: str, tmp_path: Path) -> None:
    named(tmp_path, "00")
    (tmp_path / "images/00.png").rename(tmp_path / made)
    with pytest.raises(MeddiffError, match=rf"a mask must have its image `images/00.png`; there is {instead}"):
        read("folder", tmp_path)


def test_left_out_lines_join_equal_reasons() -> None:
    left = [LeftOut(f"c{i}", "annotation", "cut") for i in range(5)] + [LeftOut("d", "case", "gone")]
    assert tell_left_out(left) == ["5 annotations aren't used (c0, c1, c2 and 2 more): cut", "1 image is left out (d): gone"]
