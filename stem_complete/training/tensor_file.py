"""Tensors as the bytes of a safetensors file, in host memory that is allocated once.

The format (github.com/huggingface/safetensors, "Format"): the header's length as 8 bytes, little
endian; a JSON header that gives each tensor's dtype, shape and place in the body; the body. The
library writes files only at once and only to local paths, and holds the GIL while it makes tensors
of bytes; here the body is copied into by the device, written in parts to any file system while it
is hashed, and read into the very memory that the tensors then use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_CHUNK_BYTES = 8 * 2**20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class HostCopy:
    """Host memory for copies of tensors, laid out as a safetensors file.

    Page-locked if a tensor is on a CUDA device, which then copies without help from the CPU.

    Args:
        tensors: What it is to hold: names, shapes and dtypes; the values are not taken yet.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._layout = _layout(tensors)
        # Wide dtypes first, so that every tensor is aligned.
        order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        header: dict[str, Any] = {}
        end = 0
        for name in order:
            start, end = end, end + tensors[name].nbytes
            dtype, shape = self._layout[name]
            header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        self._body = torch.empty(
            end, dtype=torch.uint8, pin_memory=any(tensor.is_cuda for tensor in tensors.values())
        )
        self._tensors = _views(header, self._body)

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether `tensors` have the names, shapes and dtypes that this was made for."""
        return _layout(tensors) == self._layout

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies the values."""
        for name, tensor in tensors.items():
            self._tensors[name].copy_(tensor, non_blocking=True)
        if self._body.is_pinned():
            torch.cuda.synchronize()

    def chunks(self) -> Iterator[memoryview]:
        """The bytes of the file, piece by piece, without a copy of them."""
        yield memoryview(self._header)
        body = self._body.numpy().data
        for start in range(0, len(body), _CHUNK_BYTES):
            yield body[start : start + _CHUNK_BYTES]


def unpack(file: Tensor) -> dict[str, Tensor]:
    """The tensors of a safetensors file: views of its bytes `[n]`, which must be known as whole."""
    length = int.from_bytes(file[:8].numpy().tobytes(), "little")
    header = json.loads(file[8 : 8 + length].numpy().tobytes())
    return _views(header, file[8 + length :])


def _views(header: Mapping[str, Any], body: Tensor) -> dict[str, Tensor]:
    return {
        name: body[slice(*entry["data_offsets"])]
        .view(_DTYPES[entry["dtype"]])
        .view(tuple(entry["shape"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
