import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine_calls import tensors_of
from torchship.script.errors import ModelError
from torchship.script.format.manifest import Argument, Method, State, Tolerance
from torchship.script.format.nodes import ScalarNode, TensorNode, TupleNode
from torchship.script.format.tree import Flat
from torchship.serve.engine.batching import Batching
from torchship.serve.engine.input_buffers import LARGEST, MOST_BYTES
from torchship.serve.protocol.tensors import RawTensor, pack, pack_all


def tensor(name: str, *shape: str | int | None) -> TensorNode:
    return TensorNode(name=name, dtype="float32", shape=shape)


def method(inputs: list[TensorNode | ScalarNode], *outputs: TensorNode) -> Method:
    return Method(
        inputs=tuple(Argument(name=n.name, required=True, value=n) for n in inputs),
        outputs=TupleNode(items=outputs),
        state=(),
        tolerances={n.name: Tolerance(atol=0, rtol=0) for n in outputs},
    )


RECURRENT = Batching(
    method(
        [
            tensor("x", "batch", "time", 3),
            tensor("h", 2, "batch", 5),
            ScalarNode(kind="float", name="scale"),
        ],
        tensor("y", "batch", "time"),
        tensor("h", 2, "batch", 5),
    )
)


def request(rows: int, time: int = 4, scale: float = 1.0, seed: int = 0) -> Flat:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(rows, time, 3, generator=generator),
        "h": torch.randn(2, rows, 5, generator=generator),
        "scale": torch.tensor(scale, dtype=torch.float64),
    }


def raw_request(
    rows: int, time: int = 4, scale: float = 1.0, seed: int = 0
) -> dict[str, RawTensor]:
    return pack_all(request(rows, time, scale, seed))


def run(inputs: Flat) -> Flat:
    """Rows are independent, along axis 0 of one tensor and axis 1 of the other."""
    return {
        "y": inputs["x"].sum(2) * inputs["scale"] + inputs["h"][0].sum(1, keepdim=True),
        "h": inputs["h"] * 2,
    }


def equal(a: Flat, b: Flat) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_each_request_gets_what_it_would_get_alone(rows: list[int]) -> None:
    requests = [request(count, seed=number) for number, count in enumerate(rows)]
    raw = [pack_all(inputs) for inputs in requests]
    assert [RECURRENT.rows(inputs) for inputs in raw] == rows
    joined = RECURRENT.join(raw)
    assert len(joined["x"]) == sum(rows)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in joined.values())
    parts = RECURRENT.split(run(joined), rows, {"batch": sum(rows), "time": 4})
    assert len(parts) == len(rows)
    for part, inputs in zip(parts, requests, strict=True):
        assert equal(tensors_of(part), run(inputs))


STEPPING = Batching(
    Method(
        inputs=tuple(
            Argument(name=n.name, required=True, value=n)
            for n in (tensor("x", "batch", 3), tensor("h", "batch", 5))
        ),
        outputs=TupleNode(items=(tensor("y", "batch", 3), tensor("h", "batch", 5))),
        state=(State(input="h", output="h", start="zeros"),),
        tolerances={n: Tolerance(atol=0, rtol=0) for n in "yh"},
    )
)


ROWS = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@given(st.lists(st.tuples(ROWS, st.booleans()), min_size=2, max_size=12))
def test_small_calls_that_share_their_memory(
    calls: list[tuple[list[int], bool]],
) -> None:
    given_back = []
    for number, (rows, stateful) in enumerate(calls):
        requests = [
            {"x": torch.full((count, 3), 10.0 * number + place)}
            | ({"h": torch.full((count, 5), 1.0 + number)} if stateful else {})
            for place, count in enumerate(rows)
        ]
        raw = [pack_all(request) for request in requests]
        kind, total = STEPPING.kind(raw[0]), sum(rows)
        inputs = STEPPING.prepare(raw, kind, {"batch": total})
        state = inputs.get("h", torch.zeros(total, 5))  # what the program adds
        assert torch.equal(inputs["x"], torch.cat([request["x"] for request in requests]))
        assert torch.equal(state, torch.full((total, 5), 1.0 + number if stateful else 0.0))
        assert all(value.data_ptr() % 64 == 0 for value in inputs.values())
        # The model gives its inputs back, and then writes into them.
        outputs = {"y": inputs["x"], "h": state}
        given_back.append((requests, STEPPING.split(outputs, rows, {"batch": total})))
        for value in inputs.values():
            value.fill_(-1)
    for requests, parts in given_back:
        for request, part in zip(requests, parts, strict=True):
            assert torch.equal(part["y"].tensor(), request["x"])


def test_a_number_is_one_for_all_rows_of_a_small_call() -> None:
    scaled = Batching(
        method(
            [tensor("x", "batch", 3), ScalarNode(kind="float", name="scale")], tensor("y", "batch")
        )
    )
    for scale in (0.5, 2.0, 0.5):
        number = torch.tensor(scale, dtype=torch.float64)
        rows = [pack_all({"x": torch.full((1, 3), n), "scale": number}) for n in (1.0, 2.0)]
        inputs = scaled.prepare(rows, scaled.kind(rows[0]), {"batch": 2})
        assert inputs["x"].tolist() == [[1.0] * 3, [2.0] * 3]
        assert inputs["scale"].equal(number)


def test_what_shares_its_memory_and_what_does_not() -> None:
    def memory(rows: int, columns: int = 3, batching: Batching = STEPPING) -> set[int]:
        request = {"x": pack(torch.zeros(rows, columns))}
        kind = batching.kind(request)
        calls = [batching.prepare([request], kind, {"batch": rows}) for _ in range(4)]
        return {inputs["x"].data_ptr() for inputs in calls[1:]}

    assert len(memory(2)) == 1
    assert memory(2).isdisjoint(memory(4))
    assert len(memory(LARGEST // 12 + 1)) == 3
    other = Batching(method([tensor("x", "batch", 3)], tensor("y", "batch")))
    for rows in range(1, 2000):  # 24 MB of inputs, if all of them were kept
        memory(rows, batching=other)
        assert 0 < other.buffers.nbytes <= MOST_BYTES
    assert len(memory(1999, batching=other)) == 1
    assert other.buffers.nbytes > MOST_BYTES // 2


@given(st.integers(1, 20), st.integers(1, 7))
def test_a_large_request_is_cut_and_put_together_again(rows: int, most: int) -> None:
    inputs = request(rows)
    parts = list(RECURRENT.cut(pack_all(inputs), most))
    sizes = [RECURRENT.rows(part) for part in parts]
    assert sum(sizes) == rows
    assert max(sizes) <= most
    assert all(size == most for size in sizes[:-1])
    merged = RECURRENT.merge([pack_all(run(tensors_of(part))) for part in parts])
    assert equal(tensors_of(merged), run(inputs))


def test_only_requests_that_are_alike_beside_the_batch_run_together() -> None:
    kind = RECURRENT.kind(raw_request(2))
    assert kind is not None
    assert RECURRENT.kind(raw_request(7, seed=3)) == kind
    assert RECURRENT.kind(raw_request(2, time=5)) != kind
    assert RECURRENT.kind(raw_request(2, scale=2.0)) != kind
    without_state = {name: raw for name, raw in raw_request(2).items() if name != "h"}
    assert RECURRENT.kind(without_state) not in (None, kind)


def test_requests_without_rows_run_alone() -> None:
    assert RECURRENT.kind(raw_request(0)) is None


@pytest.mark.parametrize(
    "batching",
    [
        Batching(method([tensor("x", "n", 3)], tensor("y", "n"))),
        Batching(method([tensor("x", "batch", 3)], tensor("y", 3))),
        Batching(method([tensor("x", "batch", 3), tensor("table", 3)], tensor("y", "batch"))),
    ],
    ids=["no batch", "an output without it", "a tensor that is not of rows"],
)
def test_what_cannot_be_joined_runs_alone(batching: Batching) -> None:
    assert batching.kind(pack_all({"x": torch.zeros(2, 3), "table": torch.zeros(3)})) is None


@pytest.mark.parametrize("rows", [[2], [1, 1]])
def test_outputs_that_are_not_as_the_signature_says_are_refused(rows: list[int]) -> None:
    right = {"y": torch.zeros(2, 4), "h": torch.zeros(2, 2, 5)}
    sizes = {"batch": 2, "time": 4}
    for wrong, message in (
        ({"y": torch.zeros(1, 4)}, r"'y': expected float32\[2,4\], got float32\[1,4\]"),
        ({"y": torch.zeros(2, 3)}, r"'y': expected float32\[2,4\], got float32\[2,3\]"),
        ({"y": torch.zeros(2)}, r"'y': expected float32\[2,4\], got float32\[2\]"),
        ({"h": torch.zeros(2, 1, 5)}, r"'h': expected float32\[2,2,5\], got float32\[2,1,5\]"),
        ({"y": torch.zeros(2, 4).double()}, r"'y': expected float32\[2,4\], got float64\[2,4\]"),
    ):
        assert len(RECURRENT.split(right, rows, sizes)) == len(rows)
        with pytest.raises(ModelError, match=message):
            RECURRENT.split(right | wrong, rows, sizes)
    # What follows from no input may have any size.
    assert len(RECURRENT.split(right | {"y": torch.zeros(2, 9)}, rows, {"batch": 2})) == len(rows)
    with pytest.raises(ModelError, match=r"'y': expected float32\[2,time\], got float32\[1,9\]"):
        RECURRENT.split(right | {"y": torch.zeros(1, 9)}, rows, {"batch": 2})


def test_memory_of_which_the_model_changed_the_shape_is_not_used_again() -> None:
    batching = Batching(method([tensor("x", "batch", 3)], tensor("y", "batch")))
    request = {"x": pack(torch.arange(6.0).view(2, 3))}
    kind = batching.kind(request)
    for change in ("unsqueeze_", "t_", "zero_", "detach_"):
        for _ in range(3):
            inputs = batching.prepare([request], kind, {"batch": 2})
            assert torch.equal(inputs["x"], torch.arange(6.0).view(2, 3))
            with torch.inference_mode():
                getattr(inputs["x"], change)(*([0] if change == "unsqueeze_" else []))


@pytest.mark.parametrize("shape", [("batch", "batch"), ("batch", 2)])
def test_a_tensor_of_rows_by_rows_is_not_cut(shape: tuple[str | int, ...]) -> None:
    batching = Batching(method([tensor("x", *shape)], tensor("y", "batch", "batch")))
    assert batching.kind({"x": pack(torch.zeros(2, 2))}) is None


def test_what_the_model_gets_is_an_aligned_copy() -> None:
    # Memory of Python and numpy is aligned to 16 bytes, on which some kernels round differently.
    memory = bytearray(4 * 40)
    odd = RawTensor(torch.float32, (3, 3), memoryview(memory)[4:40])
    batching = Batching(method([tensor("x", "batch", 3)], tensor("y", "batch")))
    for requests in ([{"x": odd}], [{"x": odd}, {"x": odd}]):
        joined = batching.join(requests)["x"]
        assert joined.data_ptr() % 64 == 0
        joined.fill_(7)
    assert memory == bytearray(4 * 40)


def test_what_may_be_remembered_of_a_request_by_its_shapes() -> None:
    # Two requests that differ in a number have the same shapes, and must not run as one call.
    assert RECURRENT.kind(raw_request(2, scale=2.0)) != RECURRENT.kind(raw_request(2))
    assert not RECURRENT.follows_from_shapes(raw_request(2, scale=2.0))
    plain = Batching(method([tensor("x", "batch", 3)], tensor("y", "batch")))
    assert plain.follows_from_shapes({"x": pack(torch.zeros(2, 3))})
