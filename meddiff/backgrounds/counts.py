"""How many backgrounds came of what, and what a user must know of it."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from meddiff.backgrounds.removal import REMOVAL_REASONS, Removal
from meddiff.backgrounds.sites import ENOUGH_SITES
from meddiff.errors import MeddiffError


def count_backgrounds(sources: Iterable[str], settled: Mapping[str, Removal], unlabelled: int, sites: int) -> dict[str, float]:
    """Numbers by which the backgrounds are judged.

    Args:
        sources: of each background: `normal`, `removed:CASE` or `site:CASE`.
        settled: case -> the last attempt at removing its lesions.
        unlabelled: images without annotation that were searched for sites.
        sites: found in them, whether they are used or not.

    Raises:
        MeddiffError: there is no background.
    """
    kinds = Counter(source.partition(":")[0] for source in sources)
    if not kinds:
        tried = f"; each of {len(settled)} labelled lesions was too large or still found" if settled else ""
        raise MeddiffError("backgrounds", f"there must be a background, and no image is lesion-free{tried}",
                           "Add lesion-free images, set `backgrounds.sources` to `both`, or raise `prepare.n_labelled` or "
                           "`backgrounds.residue`")
    used = [removal for removal in settled.values() if not removal.reason]
    return {"backgrounds": kinds.total(), "normal": kinds["normal"], "tried": len(settled), "removed": kinds["removed"],
            **{f"removed_by_{method}": sum(removal.method == method for removal in used) for method in ("texture", "foundation")},
            **{f"dropped_{reason.replace(' ', '_')}": sum(removal.reason == reason for removal in settled.values())
               for reason in REMOVAL_REASONS},
            **({"residue_mean": float(np.mean([removal.after for removal in used]))} if used else {}),
            "unlabelled": unlabelled, "sites": sites}


def tell_backgrounds(counts: Mapping[str, float]) -> list[str]:
    """What a user must know, one line each, from `count_backgrounds`."""
    lines = ["{normal} lesion-free images, {removed} with the lesion removed"]
    if counts["unlabelled"]:
        use = "new ones will replace it" if counts["sites"] >= ENOUGH_SITES else f"fewer than {ENOUGH_SITES}, they aren't used"
        lines.append("{sites} of {unlabelled} images without annotation show plainly where the lesion is: " + use)
    notes = {"dropped_too_large": "too large", "dropped_no_source": "no lesion-free place of the image fits",
             "dropped_lesion_found": "the inspector still finds a lesion"}
    if dropped := [f"{counts[name]} ({why})" for name, why in notes.items() if counts[name]]:
        lines.append(f"lesions not removed: {', '.join(dropped)}")
    return [line.format(**counts) for line in lines]
