from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchship.script.format.manifest import Argument, Method, Tolerance
from torchship.script.format.nodes import TensorNode
from torchship.serve.errors import RequestError
from torchship.serve.protocol.raw_request import decode_raw
from torchship.serve.protocol.tensors import RawTensor


def takes(*shape: int | str | None) -> Method:
    node = TensorNode(name="x", dtype="int16", shape=shape)
    output = TensorNode(name="y", dtype="int16", shape=shape)
    return Method(
        inputs=(Argument(name="x", required=True, value=node),),
        outputs=output,
        tolerances={"y": Tolerance(atol=0, rtol=0)},
    )


@given(st.lists(st.integers(1, 4), max_size=3), st.integers(0, 9), st.data())
def test_the_open_dimension_follows_from_the_size(
    sizes: Sequence[int], rows: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(sizes)))
    shape = (*sizes[:place], rows, *sizes[place:])
    value = torch.arange(torch.Size(shape).numel(), dtype=torch.int16).reshape(shape)
    method = takes(*sizes[:place], data.draw(st.sampled_from(["n", None])), *sizes[place:])
    request = decode_raw(method, value.numpy().tobytes())
    back = request.inputs["x"]
    assert isinstance(back, RawTensor)
    assert (back.dtype, back.shape) == (value.dtype, value.shape)
    assert back.tensor().equal(value)
    assert request.binary_output


def test_a_fixed_shape_needs_its_own_size() -> None:
    back = decode_raw(takes(2, 2), bytes(range(8))).inputs["x"]
    assert isinstance(back, RawTensor)
    assert back.tensor().tolist() == [[256, 770], [1284, 1798]]
    assert tuple(decode_raw(takes(), bytes(2)).inputs["x"].shape) == ()
    for size in (0, 6, 9, 10):
        with pytest.raises(RequestError, match=f"'x': expected 8 bytes .*, got {size}"):
            decode_raw(takes(2, 2), bytes(size))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("n", "n"), r"at most one open dimension, got int16\[n,n\]"),
        (("n", None), r"at most one open dimension"),
        (("n", 3), r"expected a multiple of 6 bytes for int16\[n,3\], got 8"),
        (("n", 0), r"expected a multiple of 0 bytes for int16\[n,0\], got 8"),
    ],
)
def test_a_size_that_says_no_shape_is_refused(
    shape: tuple[int | str | None, ...], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        decode_raw(takes(*shape), bytes(8))
