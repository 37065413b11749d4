"""What a folder of pairs is, for machines: Croissant 1.1, with the words of its vocabulary for responsible use."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meddiff import __version__
from meddiff.cases import sha256

_TERMS = (
    "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
    "format", "includes", "isArray", "arrayShape", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
    "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform")
_CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/", "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/", "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo",
    **{term: f"cr:{term}" for term in _TERMS}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "data": {"@id": "cr:data", "@type": "@json"}, "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"}, "description": {"@container": "@language"}}


def write_croissant(folder: Path, classes: Sequence[str], sets: Mapping[str, tuple[str, str]]) -> None:
    """Write `croissant.json`: synthetic pairs, their table `samples.csv`, which must be there, and sets of files.

    Args:
        sets: name -> pattern and media type of files, such as `{"masks": ("masks/*.png", "image/png")}`.
    """
    files = [{"@type": "cr:FileObject", "@id": "samples.csv", "name": "samples.csv", "contentUrl": "samples.csv",
              "encodingFormat": "text/csv", "sha256": sha256(folder / "samples.csv")},
             *({"@type": "cr:FileSet", "@id": name, "name": name, "includes": pattern, "encodingFormat": kind}
               for name, (pattern, kind) in sets.items())]
    fields = [{"@type": "cr:Field", "@id": f"samples/{name}", "name": name, "dataType": kind,
               "source": {"fileObject": {"@id": "samples.csv"}, "extract": {"column": name}}}
              for name, kind in (("id", "sc:Text"), ("seed", "sc:Integer"), ("background", "sc:Text"))]
    content: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": "synthetic-pairs",
        "description": f"Synthetic images with masks of {', '.join(classes)}, made and filtered by meddiff {__version__}",
        "keywords": ["synthetic", "segmentation", "medical"],
        "version": "1.0.0",
        "datePublished": datetime.now(UTC).date().isoformat(),
        "rai:hasSyntheticData": True,
        "rai:dataCollection": "A diffusion model, fine-tuned on a few annotated images, painted invented lesions into real "
                              "images; a filter chose among them.",
        "rai:dataUseCases": "Training of segmentation networks beside real annotated images; not tests, not diagnosis.",
        "rai:dataLimitations": "Masks are what the model was asked to paint, checked by a network and not drawn by an expert. "
                               "Variety is bounded by the annotated images.",
        "rai:personalSensitiveInformation": "Backgrounds are real medical images; the model learned from real lesions and may "
                                            "repeat parts of them. The terms of the source dataset apply.",
        "distribution": files,
        "recordSet": [{"@type": "cr:RecordSet", "@id": "samples", "name": "samples", "key": {"@id": "samples/id"},
                       "field": fields}],
    }
    (folder / "croissant.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
