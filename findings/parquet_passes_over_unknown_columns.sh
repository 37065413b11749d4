#!/bin/bash
# pyarrow 25.0.1's `ParquetFile.read` and `read_row_group` pass over a column that isn't in the file, without a word: the table
# lacks it, and with no other column it has rows and no columns. `parquet.read_table` and the dataset interface raise on the same
# name, so code that moves to row groups finds a wrong name only where the column is used.
# Seen:
#   ParquetFile.read 3 rows of ['id']
#   read_row_group 3 rows of []
#   read_table raises ArrowInvalid
#   dataset raises ArrowInvalid
set -eu
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place"
python3 -m venv venv
venv/bin/pip install -q pyarrow==25.0.1
venv/bin/python - <<'PY' | tee seen
import pyarrow as pa
from pyarrow import dataset, parquet

parquet.write_table(pa.table({"id": ["a", "b", "c"], "image": [b"1", b"2", b"3"]}), "t.parquet")


def shown(name, read):
    try:
        table = read()
        print(name, table.num_rows, "rows of", table.column_names)
    except Exception as e:
        print(name, "raises", type(e).__name__)


file = parquet.ParquetFile("t.parquet")
shown("ParquetFile.read", lambda: file.read(["id", "imgae"]))
shown("read_row_group", lambda: file.read_row_group(0, ["imgae"]))
shown("read_table", lambda: parquet.read_table("t.parquet", columns=["id", "imgae"]))
shown("dataset", lambda: dataset.dataset("t.parquet").to_table(["id", "imgae"]))
PY
diff seen - <<'SEEN'
ParquetFile.read 3 rows of ['id']
read_row_group 3 rows of []
read_table raises ArrowInvalid
dataset raises ArrowInvalid
SEEN
