"""Fidelity of solvers and guidance, for `speed.py solvers`."""

import time
from pathlib import Path

from meddiff.cases import Pixels, read_image
from meddiff.filtering.features import load_extractor
from meddiff.filtering.fidelity import assess_fidelity, describe
from meddiff.layout import Layout
from meddiff.outputs.cases import read_cases
from meddiff.outputs.samples import read_pair, read_samples
from meddiff.painting.painter import load_painter
from meddiff.params import GenerateParams

COMPARED = (("ddim", 50, 7.5), ("ddim", 20, 7.5), ("ddim", 50, 1.5), ("ddim", 20, 1.5), ("ddim", 15, 1.5),
            ("dpmsolver++", 15, 1.5), ("dpmsolver++", 20, 1.5), ("unipc", 15, 1.5),
            ("ddim", 50, 1.0), ("ddim", 20, 1.0), ("ddim", 15, 1.0), ("dpmsolver++", 15, 1.0), ("unipc", 15, 1.0))


def solvers(project: Path, n: int) -> None:
    """Fidelity of lesions that one generator paints into the same backgrounds under the same masks, by solver and guidance."""
    layout, extract = Layout(project), load_extractor().features
    table = read_samples(layout.synthetic, "id", "batch", "background").head(n)
    grounds = [read_image(layout.backgrounds / f"images/{row.background}.png") for row in table.itertuples()]
    masks = [read_pair(layout.synthetic, row.batch, row.id)[1] for row in table.itertuples()]
    chosen = [i for i, mask in enumerate(masks) if mask.any()]
    painter = load_painter(layout.generator, "cpu")
    sets, seconds = {}, {}
    for solver, steps, guidance in COMPARED:
        params = GenerateParams(scheduler=solver, steps=steps, guidance_scale=guidance)
        name, pairs, begun = f"{solver}, {steps} steps, guidance {guidance}", [], time.perf_counter()
        for start in range(0, len(chosen), params.batch_size):
            part = chosen[start:start + params.batch_size]
            images = painter.paint([grounds[i] for i in part], [masks[i] for i in part], part, params)
            pairs += [(image, masks[i]) for i, image in zip(part, images, strict=True)]
        seconds[name], sets[name] = time.perf_counter() - begun, describe(extract, pairs)

    def pairs_of(split: str) -> list[tuple[Pixels, Pixels]]:
        return [(case.image, case.mask) for case in read_cases(layout.cases(split)) if case.mask is not None and case.mask.any()]

    known = describe(extract, pairs_of("train"), mirrored=True)
    found = assess_fidelity(describe(extract, pairs_of("val")), known, sets, "lesion")
    print(f"\n{project.name}: {len(chosen)} lesions, KID against {found.n_reference} held-back images\n\n"
          "| | KID, lesions | KID, whole images | density | coverage | images/s |\n|---|---|---|---|---|---|")
    for name, one in found.sets.items():
        lesion, image, support = one.kid["lesion"], one.kid["image"], one.support["lesion"]
        speed = f"{len(chosen) / seconds[name]:.1f}" if name in seconds else ""
        print(f"| {name} | {lesion.mean:.2f} ± {lesion.deviation:.2f} | {image.mean:.2f} ± {image.deviation:.2f} "
              f"| {support.density:.2f} | {support.coverage:.2f} | {speed} |")
