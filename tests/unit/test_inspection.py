"""Pictures of what a store holds."""

import imagecodecs
import pytest

from stem_complete.data.store import MicrographStore
from stem_complete.errors import StoreError
from stem_complete.inspection import draw_store


@pytest.mark.parametrize("num", [1, 5, 32])
def test_a_sheet_of_crops_is_a_png(small_store, tmp_path, num):
    draw_store(small_store, tmp_path / "sheet.png", num)
    sheet = imagecodecs.png_decode((tmp_path / "sheet.png").read_bytes())
    assert min(sheet.shape[:2]) > 100
    assert sheet[..., :3].std() > 10


def test_an_empty_store_has_no_sheet(tmp_path):
    MicrographStore.create(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="crops to draw"):
        draw_store(tmp_path / "s.zarr", tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
