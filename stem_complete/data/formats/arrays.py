"""Readers of NPY, NPZ and PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stem_complete.console import counted
from stem_complete.data.formats.damage import DamagedError
from stem_complete.data.formats.databar import num_bar_rows
from stem_complete.data.formats.signals import Contents
from stem_complete.errors import DataError

_DEPTH_AND_COLOURS = slice(24, 26)  # in a PNG
_BEGINNINGS = (b"\x93NUMPY", b"PK")  # of NPY and of NPZ, a ZIP file
_OBJECT_ARRAY = "Object arrays"  # NumPy's words
_OBJECTS = "an array of Python objects (a pickle), which is not read as it could run code"
_SAVE_NUMBERS = "save numbers of one dtype, np.save(path, np.stack(images))"


def read_png(path: Path, contents: Contents) -> None:
    """Offers the image of a PNG, 8 or 16 bit."""
    import imagecodecs

    encoded = path.read_bytes()
    image = imagecodecs.png_decode(encoded)
    if tuple(encoded[_DEPTH_AND_COLOURS]) == (1, 0):  # a grey bit, which is decoded as 0 and 255
        contents.offer("", image > 0)
        return
    if rows := num_bar_rows(image):
        contents.skip("", f"a bar of writing below the image, {counted(rows, 'row')}")
        image = image[:-rows]
    if image.ndim == 3:
        contents.offer_colours("", image)
    else:
        contents.offer("", image)


def read_numpy(path: Path, contents: Contents) -> None:
    """Offers the array of an NPY, or every array of an NPZ. Nothing is unpickled.

    Raises:
        DataError: It is an array of objects.
    """
    with path.open("rb") as file:
        if not file.read(6).startswith(_BEGINNINGS):  # NumPy would take it for a pickle
            raise DamagedError("content of another format")
        file.seek(0)
        try:
            loaded = np.load(file, allow_pickle=False)
        except ValueError as error:
            if _OBJECT_ARRAY not in str(error):
                raise
            raise DataError(
                expected="an array of numbers", found=_OBJECTS, where=path, fix=_SAVE_NUMBERS
            ) from error
        if isinstance(loaded, np.ndarray):
            contents.offer("", loaded)
            return
        for name in loaded.files:
            try:
                array = loaded[name]
            except Exception as error:  # the others may be whole
                if _OBJECT_ARRAY in str(error):
                    contents.skip(name, f"{_OBJECTS}; {_SAVE_NUMBERS}")
                else:
                    contents.damaged[name] = error
                continue
            if isinstance(array, np.ndarray):
                contents.offer(name, array)
            else:
                contents.skip(name, "no array")
