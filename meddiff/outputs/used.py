"""Every image that the chain has used: what the search for leaks looks through."""

from collections.abc import Collection, Iterable, Iterator

from meddiff.cases import read_image
from meddiff.datasets.leakage import Used, look
from meddiff.layout import Layout
from meddiff.outputs.pairs import KINDS
from meddiff.outputs.rows import CaseRow
from meddiff.outputs.samples import Records, sample_image
from meddiff.outputs.tables import BACKGROUNDS, CASES, NORMAL
from meddiff.params.arms import arm_of


def count_unknown(layout: Layout, test: Iterable[CaseRow]) -> int:
    """How many of the dataset's images, test cases included, have no known patient.

    Raises:
        MeddiffError: a table is missing.
    """
    cases = (*test, *CASES.rows(layout.cases("train")), *CASES.rows(layout.cases("val")))
    return sum(not case.patient for case in cases) + sum(not image.patient for image in NORMAL.rows(layout.normal))


def list_used(layout: Layout, records: Records, arms: Collection[str]) -> Iterator[Used]:
    """Training, validation and lesion-free images, backgrounds, and every sample, accepted or not.

    Args:
        records: of the samples. The pixels are looked at of those from which an arm learns; of the others their origin is known.
        arms: that are trained.

    Raises:
        MeddiffError: a table or an image is missing.
    """
    frames, origins = {}, {}
    for folder, table in ((layout.cases("train"), CASES), (layout.cases("val"), CASES), (layout.normal, NORMAL)):
        for row in table.rows(folder):
            frames[row.id] = row.frame
            seen = look(read_image(folder / "images" / f"{row.id}.png"), row.frame)
            yield Used(f"data/{folder.name}", row.id, row.id, row.group, seen)
    for ground in BACKGROUNDS.rows(layout.backgrounds):
        origins[ground.id] = ground.origin
        seen = look(read_image(layout.backgrounds / "images" / f"{ground.id}.png"), frames.get(ground.origin))
        yield Used("backgrounds", ground.id, ground.origin, ground.group, seen, painted=ground.origin != ground.id)
    learned = set(records.decisions.loc[records.decisions["verdict"] == "accepted", "id"])
    for kind in {kind for arm in arms for kind in arm_of(arm).adds}:
        learned.update(pair.id for pair in KINDS[kind](layout))
    for id, batch, background in records.samples[["id", "batch", "background"]].itertuples(index=False):
        origin = origins.get(background, background.removesuffix("_removed").removesuffix("_site"))
        image = sample_image(layout.synthetic, batch, id)
        yield Used(f"synthetic/{batch}", id, origin, look=look(read_image(image), frames.get(origin)) if id in learned else None,
                   painted=True)
