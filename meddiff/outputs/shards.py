"""Pictures in shards: PNG files as cells of a Parquet table, so that DVC tracks hundreds of files, not hundreds of thousands.

Parquet, not a tar: what is known of a sample lies in the row of its pictures, columns are read without the pictures, a picture
without its neighbours, and every program with pandas, Arrow or DuckDB reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from meddiff.errors import MeddiffError

_GROUP = 2**18  # of a row group, which is read to see one of its pictures [bytes]
_LONGEST = 1024  # rows of a group


@dataclass(frozen=True)
class InShard:
    """A picture in a shard, read when it is asked for; `cases.read_image` and `read_mask` take it as they take a file.

    Attributes:
        file: the shard, which has a column `id`.
        id: of the row.
        column: that holds the picture.
        stage: that writes the shard, for the remedy.
    """

    file: Path
    id: str
    column: str
    stage: str

    @property
    def name(self) -> str:
        """As a file of its own it would be called so."""
        return f"{self.id}.png"

    def __str__(self) -> str:
        return f"{self.file} ({self.column} of {self.id})"

    def read_bytes(self) -> bytes:
        """The picture's PNG.

        Raises:
            MeddiffError: the shard isn't there or doesn't decode, or it lacks the column, the row or its picture.
        """
        try:
            state = self.file.stat()
            shard = self.file, state.st_mtime_ns, state.st_size
            metadata, rows = _opened(*shard)
            number, place = divmod(rows[self.id], metadata.row_group(0).num_rows)
            content: bytes | None = _pictures(*shard, number, self.column)[place]
        except (OSError, ValueError, KeyError) as e:  # Arrow's errors are subclasses of the first two
            raise self._missing(f"a shard must hold this picture ({' '.join(repr(e).split())[:200]})") from e
        if content is None:
            raise self._missing("the row has no picture")
        return content

    def _missing(self, rule: str) -> MeddiffError:
        return MeddiffError(self, rule, f"Run `dvc repro {self.stage}`")


def write_shard(file: Path, table: pd.DataFrame, pictures: Mapping[str, Sequence[bytes]]) -> None:
    """Write a table with pictures beside it.

    Args:
        table: its column `id` tells the rows apart.
        pictures: name of a column -> the PNG of each row.
    """
    every = pa.Table.from_pandas(table, preserve_index=False)
    for name, column in pictures.items():
        every = every.append_column(name, pa.array(column, pa.binary()))
    rows = _GROUP * len(table) // max(1, every.nbytes)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        parquet.write_table(every, stream, row_group_size=min(_LONGEST, max(1, rows)),
                            compression={name: "NONE" if name in pictures else "SNAPPY" for name in every.column_names},
                            use_dictionary=list(table.columns), write_statistics=list(table.columns))


@lru_cache(maxsize=1024)
def _opened(file: Path, changed: int, size: int) -> tuple[parquet.FileMetaData, dict[str, int]]:
    """What its footer tells, and the number of each row."""
    with parquet.ParquetFile(file) as shard:
        return shard.metadata, {id: row for row, id in enumerate(shard.read(["id"]).column(0).to_pylist())}


@lru_cache(maxsize=64)
def _pictures(file: Path, changed: int, size: int, number: int, column: str) -> list[bytes | None]:
    """Those of a row group."""
    with parquet.ParquetFile(file, metadata=_opened(file, changed, size)[0]) as shard:
        group = shard.read_row_group(number, [column])
    if not group.num_columns:
        raise KeyError(column)
    found: list[bytes | None] = group.column(0).to_pylist()
    return found
