"""The weights that come with meddiff: the embedded foundation, a diffusers pipeline folder with its model card README.md."""

import json
from pathlib import Path

FOUNDATION = Path(__file__).parent / "foundation"


def photographs(foundation: Path) -> dict[str, str]:
    """File name -> SHA-256 of the images on which a foundation folder says that it was trained; nothing if it doesn't say."""
    facts = foundation / "training.json"
    return dict(json.loads(facts.read_text()).get("photographs", {})) if facts.is_file() else {}
