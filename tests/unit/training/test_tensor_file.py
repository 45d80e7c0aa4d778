"""Tensors as safetensors files: what the library reads and writes, bit by bit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from stem_complete.training.tensor_file import HostCopy, unpack

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
shared = torch.arange(12.0)
STATE = {
    "channels_last": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
    "transposed": torch.arange(6).view(2, 3).T,
    "scalar": torch.tensor(2.5),
    "flag": torch.tensor(True),
    "count": torch.tensor(2**40),
    "none": torch.empty(0, 3),
    "not finite": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
    "whole": shared,
    "part of it": shared[3:7],
    "expanded": torch.ones(1).expand(5),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def write(tensors):
    copy = HostCopy(tensors)
    copy.fill(tensors)
    return b"".join(copy.chunks())


def read(file):
    return unpack(torch.frombuffer(bytearray(file), dtype=torch.uint8))


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].is_contiguous(), name
        bits = [t.detach().contiguous().flatten().view(torch.uint8) for t in (found[name], tensor)]
        assert torch.equal(*bits), name


@pytest.mark.parametrize("reader", [read, load], ids=["own", "library"])
def test_any_tensor_comes_back_as_it_was(reader):
    assert_same_bits(reader(write(STATE)), STATE)


def test_files_of_the_library_can_be_read():
    contiguous = {name: tensor.detach().clone(memory_format=torch.contiguous_format)
                  for name, tensor in STATE.items()}  # fmt: skip
    assert_same_bits(read(save(contiguous, metadata={"written by": "the library"})), contiguous)


@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)), max_size=6
    )
)
def test_any_mixture_of_dtypes_is_aligned(entries):
    tensors = {
        f"tensor {number}": torch.randint(0, 2, shape).to(dtype)
        for number, (dtype, shape) in enumerate(entries)
    }
    file = write(tensors)
    assert_same_bits(load(file), tensors)
    assert_same_bits(read(file), tensors)


def test_memory_is_used_again_only_for_the_same_layout():
    first = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}
    copy = HostCopy(first)
    assert copy.fits({"b": torch.ones(3), "w": torch.ones(2, 3)})
    assert not copy.fits({"w": torch.zeros(2, 3)})
    assert not copy.fits(first | {"w": torch.zeros(3, 2)})
    assert not copy.fits(first | {"w": torch.zeros(2, 3, dtype=torch.float64)})
    copy.fill(first)
    copy.fill({"w": torch.ones(2, 3), "b": torch.full((3,), 2.0)})
    assert load(b"".join(copy.chunks()))["b"].tolist() == [2.0, 2.0, 2.0]
