import math

import numpy as np
import pandas as pd

from meddiff.painting.counts import count_samples


def test_what_is_not_there_is_left_out() -> None:
    table = pd.DataFrame({"mask_likeness": [0.2, 0.6], "site_iou": [np.nan, np.nan]})
    assert count_samples(table, [math.nan, math.nan], []) == {"samples": 2.0, "mask_likeness_mean": 0.4, "mask_likeness_max": 0.6}
    numbers = count_samples(table.assign(site_iou=[0.5, np.nan]), [1.0, math.nan], [2.0, 4.0])
    assert (numbers["site_iou_mean"], numbers["site_iou_max"], numbers["seam"], numbers["seam_real"]) == (0.5, 0.5, 1.0, 3.0)
