"""What is kept of pairs that leave the project, so that it is known where they are if a patient is withdrawn later."""

import sys
from collections.abc import Sequence

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.outputs.samples import read_samples
from meddiff.params import Params
from meddiff.services.catalog import record_delivery


def present_generators(layout: Layout) -> list[str]:
    """Hashes of the models that made the samples which lie in the project; none where there are none."""
    if not any(layout.synthetic.glob("*/batch.parquet")):
        return []
    return sorted(set(read_samples(layout.synthetic, "id", "generator")["generator"]))


def note_delivery(layout: Layout, params: Params, kind: str, name: str, place: str, generators: Sequence[str],
                  pairs: int) -> None:
    """Note a release or export in the catalogue; the delivery counts also where that fails, which a line says.

    Args:
        kind, name, place: see `services.catalog.DeliveryRecord`.
        generators: hashes of the models that made the samples.
        pairs: how many.
    """
    try:
        record_delivery(layout, params, kind, name, place, generators, pairs)
    except MeddiffError as e:
        print(f"{kind} {name}: done, but not noted in the catalogue, so `meddiff withdraw` won't name it: {e}", file=sys.stderr)
