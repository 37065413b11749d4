"""Pictures in shards: each comes back, alone, and what isn't there is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from meddiff.cases import image_png, mask_png, read_image, read_mask
from meddiff.errors import MeddiffError
from meddiff.outputs.shards import InShard, write_shard

SIDE, N = 96, 30


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Thirty pictures of noise, some 27 KB each, of which no two are alike."""
    file, rng = tmp_path / "b0000/batch.parquet", np.random.default_rng(0)
    images = [image_png(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)) for _ in range(N)]
    write_shard(file, pd.DataFrame({"id": [f"s{i}" for i in range(N)], "seed": range(N)}),
                {"image": images, "mask": [mask_png(np.eye(SIDE, dtype=np.uint8) * (i % 3), 2) for i in range(N)]})
    return file


def test_each_picture_comes_back_to_the_byte_from_a_small_part_of_the_file(shard: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(N):
        image, mask = (InShard(shard, f"s{i}", column, "generate") for column in ("image", "mask"))
        expected = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        assert image.read_bytes() == image_png(expected)
        assert image.name == f"s{i}.png"
        assert np.array_equal(read_image(image), expected)
        assert np.array_equal(read_mask(mask), np.eye(SIDE) * (i % 3))
    metadata = parquet.read_metadata(shard)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert len(groups) >= 3
    assert max(group.total_byte_size for group in groups) < 1.1 * 2**18
    assert len({group.num_rows for group in groups[:-1]}) == 1


def test_a_table_is_read_without_its_pictures(shard: Path) -> None:
    table = pd.read_parquet(shard, columns=["id", "seed"])
    assert table["seed"].tolist() == list(range(N))
    assert pd.read_parquet(shard).columns.tolist() == ["id", "seed", "image", "mask"]


def test_a_shard_that_was_written_anew_shows_its_new_pictures(shard: Path) -> None:
    picture = InShard(shard, "s3", "mask", "generate")
    before = picture.read_bytes()
    fresh = mask_png(np.ones((8, 8), np.uint8))
    write_shard(shard, pd.DataFrame({"id": ["s3"]}), {"mask": [fresh]})
    assert picture.read_bytes() == fresh != before
    with pytest.raises(MeddiffError, match="s4"):
        InShard(shard, "s4", "mask", "generate").read_bytes()


def test_no_pictures_are_a_shard_too(tmp_path: Path) -> None:
    write_shard(tmp_path / "masks.parquet", pd.DataFrame({"id": []}, dtype="str"), {"mask": []})
    assert pd.read_parquet(tmp_path / "masks.parquet").columns.tolist() == ["id", "mask"]


@pytest.mark.parametrize(("spoil", "picture", "words"), [
    (Path.unlink, ("s1", "image"), "FileNotFoundError"), (lambda file: file.write_bytes(b"PAR1"), ("s1", "image"), "Parquet"),
    (lambda file: file.write_bytes(file.read_bytes()[:9000]), ("s1", "image"), "Parquet"), (None, ("s99", "image"), "s99"),
    (None, ("s1", "overlay"), "overlay"),
    (lambda file: write_shard(file, pd.DataFrame({"id": ["s1"]}), {"image": [None]}), ("s1", "image"), "the row has no picture"),
])
def test_what_is_missing_is_named_with_its_remedy(
        shard: Path, spoil: Callable[[Path], object] | None, picture: tuple[str, str], words: str) -> None:
    if spoil:
        spoil(shard)
    with pytest.raises(MeddiffError) as caught:
        read_image(InShard(shard, *picture, "generate"))
    assert caught.value.where == f"{shard} ({picture[1]} of {picture[0]})"
    assert words in caught.value.rule
    assert caught.value.remedy == "Run `dvc repro generate`"
