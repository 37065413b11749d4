"""What later stages need of the settings and of the files that they name, checked before any work is done."""

from meddiff.layout import STAGES
from meddiff.params import Params


def check_ahead(params: Params, stage: str) -> None:
    """Load the files that later stages than this one name in the settings, and ask the machine for what they need.

    Raises:
        MeddiffError: what the stage concerned would raise.
    """
    later = STAGES[STAGES.index(stage) + 1:]
    if params.compute.device == "cuda":
        from meddiff.environment import use_machine

        use_machine(params)
    if "foundation" in later and params.foundation.source not in ("embedded", "scratch"):
        from meddiff.diffusion.foundation import load_foundation

        load_foundation(params.foundation.source, params.foundation.revision)
    if "filter" in later and params.filter.extractor not in ("lesion", "inspector"):
        from meddiff.filtering.features import load_extractor

        load_extractor(params.filter.extractor, params.filter.extractor_revision, "cpu")
    if "segment" in later and params.segment.network in ("swin_unetr", "encoder_unet"):  # the others fit every size
        from meddiff.segmentation.segmenter import untrained

        untrained(params.segment, len(params.prepare.classes), params.prepare.size, params.prepare.size)
    if "evaluate" in later and params.evaluate.metric:
        from meddiff.segmentation.metrics import load_metric

        load_metric(params.evaluate.metric)
