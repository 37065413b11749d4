"""Images a second of `meddiff predict`, from files to files: `python benchmarks/predict.py [--sides 64 128] [--images 200]`.

Untrained U-Nets of the default width, which cost what trained ones do, on phantoms saved as PNG of 512 x 512 pixels; decoding,
masks, overlays and table are included, loading of the model too. The variants take turns; a number is the median over the rounds.
"""

from meddiff.environment import quiet

quiet()

import argparse  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from itertools import product  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median  # noqa: E402

from meddiff.cases import write_image  # noqa: E402
from meddiff.datasets.demo import make_phantoms  # noqa: E402
from meddiff.delivery.predicting import predict_files  # noqa: E402
from meddiff.layout import Layout  # noqa: E402
from meddiff.pages import markdown_table  # noqa: E402
from meddiff.params import Params  # noqa: E402
from meddiff.segmentation.ensemble import Recipe  # noqa: E402
from meddiff.segmentation.segmenter import untrained  # noqa: E402

_SEEDS, _FLIPS, _ROUNDS, _FILE_SIDE = (1, 3), (False, True), 3, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    params = Params.model_validate({"compute": {"threads": asked.threads, "device": asked.device}})
    seconds: dict[tuple[int, int, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for case in make_phantoms(asked.images, True, _FILE_SIDE, "mixed", 0):
            write_image(root / "images" / f"{case.id}.png", case.image)
        for side, seeds in product(asked.sides, _SEEDS):
            arm = root / f"{side}-{seeds}"
            for seed in range(seeds):
                untrained(params.segment, 1, side, side, seed).save(arm / str(seed))
            Recipe("real", ("lesion",), side, "pad").write(arm)
        for turn in range(_ROUNDS):
            for side, seeds, flips in product(asked.sides, _SEEDS, _FLIPS):
                begun = time.perf_counter()
                predict_files(Layout(root), params, str(root / f"{side}-{seeds}"), root / "images",
                              root / f"out-{turn}-{side}-{seeds}-{flips}", flips)
                seconds.setdefault((side, seeds, flips), []).append(time.perf_counter() - begun)
    speed = {variant: f"{asked.images / median(times):.1f}" for variant, times in seconds.items()}
    rows = [[str(seeds), "yes" if flips else "no", *(speed[side, seeds, flips] for side in asked.sides)]
            for seeds, flips in product(_SEEDS, _FLIPS)]
    print(markdown_table(["seeds", "flips", *(f"images/s, {side} px" for side in asked.sides)], rows))


if __name__ == "__main__":
    main()
