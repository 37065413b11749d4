#!/usr/bin/env bash
# monai 1.6.1: in a bundle's configuration `$from PIL import ImageOps` gives no module, though Python's own statement does: MONAI
# takes an attribute of the package, and a submodule that nobody has imported yet is none. The error comes late, as a NameError or
# "has no attribute" of the expression that uses it. `$import PIL.ImageOps as ImageOps` works.
# A good guess: an import that Python takes is taken.
# Seen: 'from: OptionalImportError', 'import: ok'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 monai==1.6.1 pillow==13.0.0
cat > "$folder/imports.py" <<'PY'
import sys
from monai.bundle import ConfigParser

assert "PIL.ImageOps" not in sys.modules
for name, line in {"from": "$from PIL import ImageOps", "import": "$import PIL.ImageOps as ImageOps"}.items():
    parser = ConfigParser({"imports": [line], "mirror": "$ImageOps.mirror"})
    try:
        parser.get_parsed_content("mirror")
        print(f"{name}: ok")
    except Exception as e:
        print(f"{name}: {type(e).__name__ if e.__cause__ is None else type(e.__cause__).__name__}")
    sys.modules.pop("PIL.ImageOps", None)
PY
seen=$("$folder/venv/bin/python" "$folder/imports.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "from: OptionalImportError
import: ok" ]
