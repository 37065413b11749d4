import numpy as np

from meddiff.masks.sheet import mask_sheet


def test_real_masks_stand_above_invented_ones() -> None:
    real, invented = [np.full((8, 8), 1, np.uint8)] * 30, [np.full((8, 8), 2, np.uint8)]
    sheet = np.asarray(mask_sheet([*real, 2 * real[0]], invented))
    assert sheet.shape == (5 * 12 + 8, 12 * 12)
    assert (sheet[:8, :8] == 127).all()
    assert (sheet[12:20, 11 * 12:11 * 12 + 8] == 127).all(), "two rows of twelve"
    assert (sheet[32:40, :8] == 254).all()
    assert (sheet[32:40, 12:] == 90).all()
