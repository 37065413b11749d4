"""Shapes of annotation tools against the programs that draw them, and the numbers that the documentation gives."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

from meddiff.datasets.adapters.shapes import Contour, Drawing, Ellipse, Patch, Region, Runs
from meddiff.datasets.decoding import Decoded, turned
from meddiff.errors import MeddiffError

SIZE = (20, 30)
SQUARE = np.array([(5.0, 3.0), (9.0, 3.0), (9.0, 7.0), (5.0, 7.0)])


def test_a_square_of_four_fills_25_pixels_as_documented() -> None:
    filled = Contour(SQUARE).fill(SIZE)
    assert filled.sum() == 25
    assert filled[3:8, 5:10].all()
    drawn = Image.new("1", SIZE[::-1])
    ImageDraw.Draw(drawn).polygon([tuple(corner) for corner in SQUARE.tolist()], fill=1, outline=1)
    assert np.array_equal(filled, np.array(drawn))
    other = cv2.fillPoly(np.zeros(SIZE, np.uint8), [SQUARE.astype(np.int32)], 1)
    assert np.array_equal(filled, other > 0)
    corners = coco_masks.decode(coco_masks.frPyObjects([SQUARE.ravel().tolist()], *SIZE))
    assert corners.sum() == 16
    assert Contour(SQUARE / SIZE[::-1], 1).fill(SIZE).sum() == Contour(SQUARE / SIZE[::-1] * 100, 100).fill(SIZE).sum() == 25


def test_a_circle_and_an_ellipse_hold_the_centres_inside() -> None:
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    circle = Ellipse(12, 9, 5, 5).fill(SIZE)
    assert np.array_equal(circle, (columns - 12) ** 2 + (rows - 9) ** 2 <= 25)
    drawn = Image.new("1", SIZE[::-1])
    ImageDraw.Draw(drawn).ellipse((7, 4, 17, 14), fill=1, outline=1)
    assert (circle.sum(), np.array(drawn).sum()) == (81, 97), "Pillow, with which labelme's script draws, adds half a pixel"
    assert not (circle & ~np.array(drawn)).any()
    lying, standing = Ellipse(15, 10, 8, 3).fill(SIZE), Ellipse(15, 10, 3, 8, 90).fill(SIZE)
    assert np.array_equal(lying, standing)
    falling = Ellipse(15, 10, 8, 2, 30).fill(SIZE)
    assert falling[13, 20], "clockwise, to the right and down"
    assert not falling[7, 20]


@given(st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=60, deadline=None)
def test_runs_are_those_of_pycocotools(height: int, width: int, data: st.DataObject) -> None:
    inside = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))).reshape(height, width)
    flat = inside.ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], flat, [flat[-1] + 1]])))
    counts = np.diff(np.concatenate([[0], ends])).tolist()
    assert np.array_equal(Runs(counts, (height, width)).fill((height, width)), inside)
    reference = coco_masks.decode(coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    assert np.array_equal(reference > 0, inside)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Contour(SQUARE[:2]), "three points"),
    (lambda: Contour(np.array([(0, 0), (1, np.nan), (2, 2)])), "finite"),
    (lambda: Contour(np.array([1.0, 2, 3])), "three points of x and y"),
    (lambda: Contour(SQUARE + 100).fill(SIZE), "lies outside"),
    (lambda: Contour(SQUARE * 1e9).fill(SIZE), "lies outside"),
    (lambda: Contour(np.array([(0, 0), (1e12, 0), (0, 5)])).fill(SIZE), "far outside"),
    (lambda: Ellipse(3, 3, 0, 1), "radii above 0"),
    (lambda: Ellipse(3, float("inf"), 1, 1), "finite"),
    (lambda: Patch(np.ones((3, 3), np.bool_), 18, 0).fill(SIZE), r"3×3 pixels at \(0, 18\) doesn't fit"),
    (lambda: Runs([3, 2], (6, 6)), "cover 6×6 = 36 pixels, these cover 5"),
    (lambda: Runs([40, -4], (6, 6)), "these cover 36"),
    (lambda: Runs([], (0, 6)), "must cover"),
    (lambda: Runs([30, 6], (6, 6)).fill(SIZE), "of 6×6 pixels don't fit"),
    (lambda: Runs([1 << 39, 1 << 39], (1 << 20, 1 << 20)).fill(SIZE), "don't fit"),
])
def test_what_is_no_shape_or_lies_elsewhere_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def drawing(shapes: list[tuple[int, Region]], size: tuple[int, int] | None = None, turns: bool = False) -> Drawing:
    return Drawing(Path("export.json"), "image 3", shapes, size, turns)


def blank(size: tuple[int, int], orientation: int = 1) -> Decoded:
    return Decoded(np.zeros((*size, 3), np.uint8), orientation)


def test_the_higher_class_wins_and_no_shape_is_an_empty_mask() -> None:
    both = drawing([(2, Contour(SQUARE)), (1, Contour(SQUARE + 2))]).mask(blank(SIZE), 2).pixels
    assert (both[3:8, 5:10] == 2).all()
    assert both[9, 11] == 1
    assert not drawing([]).mask(blank(SIZE, 6), 1).pixels.any()


def test_the_size_in_the_export_tells_how_an_image_was_shown() -> None:
    shapes: list[tuple[int, Region]] = [(1, Contour(SQUARE))]
    shown = drawing(shapes, SIZE[::-1]).mask(blank(SIZE, 6), 1)
    assert shown.orientation == 6
    assert np.array_equal(turned(shown.pixels, 6), Contour(SQUARE).fill(SIZE[::-1]))
    stored = drawing(shapes, SIZE).mask(blank(SIZE, 6), 1)
    assert (stored.pixels.shape, stored.orientation) == (SIZE, 1)
    for orientation in range(2, 9):
        size = SIZE if orientation < 5 else SIZE[::-1]
        sure = drawing(shapes, size, turns=True).mask(blank(SIZE, orientation), 1)
        assert np.array_equal(turned(sure.pixels, orientation), Contour(SQUARE).fill(size)), orientation
    for orientation, size in ((3, SIZE), (2, SIZE), (6, None)):
        with pytest.raises(MeddiffError, match=r"export\.json: image 3: nothing tells whether"):
            drawing(shapes, size).mask(blank(SIZE, orientation), 1)
    with pytest.raises(MeddiffError, match="the export says 31×20 pixels, the image has 30×20"):
        drawing(shapes, (20, 31)).mask(blank(SIZE), 1)
    with pytest.raises(MeddiffError, match=r"export\.json: image 3: a shape lies outside on the image of 30×20"):
        drawing([(1, Contour(SQUARE + 100))]).mask(blank(SIZE), 1)
