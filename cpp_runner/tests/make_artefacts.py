"""Makes archives for the C++ tests: of our models, of small modules, and damaged ones.

    python make_artefacts.py FOLDER

The models go through the exporter. Most others are written here as docs/archive.md says, without
the exporter, so that the tests find mistakes that the exporter and the reader have in common.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import torch
from modules import Counter, Drift, Large, Nan, Numbered, Odd, Point, Raises, Talker, Tiny, Total
from packing import (
    GOLDEN,
    MANIFEST,
    Json,
    append,
    argument,
    digests,
    manifest,
    mutated,
    pack,
    records_of,
    tensor,
    tiny_golden,
    tiny_manifest,
    torchscript,
    with_digests,
    with_records,
    zipped,
)
from safetensors.torch import save
from torch import Tensor, nn

from torchship.script.exporting.export import export
from torchship.script.exporting.target import Target, find_target, normalise
from torchship.script.format.manifest import CustomOperator, Source
from torchship.script.runtime import archive as archives
from torchship.script.runtime import torchscript_file
from torchship.script.runtime.archive import open_archive

MUTATIONS = Path(__file__).parents[2] / "tests" / "manifest_mutations.json"
MODELS = ("fizzbuzz", "lstm", "lstm-fused", "moba", "bobnet")


def make_tiny(folder: Path) -> None:
    """Write `tiny.pt`, and damaged and unusual variants of it."""
    script = torchscript(Tiny())
    said, golden = tiny_manifest(), tiny_golden()

    def write(name: str, data: bytes) -> None:
        (folder / f"{name}.pt").write_bytes(data)

    good = pack(script, said, golden)
    with zipfile.ZipFile(io.BytesIO(script)) as file:
        top = file.namelist()[0].partition("/")[0]
    write("tiny", good)
    write("plain", script)
    write("deflated", pack(script, said, golden, zipfile.ZIP_DEFLATED))
    write("bzip2", pack(script, said, golden, zipfile.ZIP_BZIP2))
    write("future", pack(script, {"format": 2, "name": 7}, golden))
    write("unlisted", pack(script, said, golden, drop="data.pkl"))
    listed = digests(records_of(script) | {GOLDEN: save(golden)})
    write("missing", pack(script, {**said, "records": listed | {"gone": "0" * 64}}, golden))
    write("digest", pack(script, {**said, "records": listed | {"data.pkl": "0" * 64}}, golden))
    (folder / "wrong_digest").mkdir()
    for number, (record, digest) in enumerate(listed.items()):
        last = "1" if digest[-1] == "0" else "0"
        wrong = listed | {record: digest[:-1] + last}  # every zip reader finds its CRC-32 right
        write(f"wrong_digest/{number}", pack(script, {**said, "records": wrong}, golden))
    write("doubled", append(good, {f"{top}/data.pkl": b"again"}))
    write("dots", append(script, {f"{top}/extra/a..b": b"x"}))
    write("numbered", torchscript(Numbered()))
    write("junk_pickle", zipped({"top/data.pkl": b"junk", "top/constants.pkl": b"junk"}))
    write("half_a_script", zipped({"top/data.pkl": b"junk"}))
    write("two_tops", append(good, {"other/data.pkl": b"x"}))
    write("dotdot", append(good, {f"{top}/../data.pkl": b"x"}))
    write(
        "no_golden",
        append(
            script,
            {
                f"{top}/{MANIFEST}": json.dumps(
                    {**said, "records": digests(records_of(script))}
                ).encode()
            },
        ),
    )
    write("no_manifest", append(script, {f"{top}/{GOLDEN}": save(golden)}))
    write("stray_golden", pack(script, said, golden | {"0/1/in/x": golden["0/0/in/x"]}))
    write("no_cases", pack(script, {**said, "golden": []}, {}))
    nothing = {"name": "nowhere::nothing", "library": "nowhere_ops"}
    write("custom_op", pack(script, {**said, "custom_ops": [nothing]}, golden))
    empty = {"0/0/in/x": torch.zeros(0, 3), "0/0/out/y": torch.zeros(0, 3)}
    write("empty_only", pack(script, said, empty))
    second = {name.replace("0/", "1/", 1): value for name, value in golden.items()}
    entries = [{"name": n, "method": "forward", "steps": 1} for n in ("empty", "one")]
    write("empty_first", pack(script, {**said, "golden": entries}, empty | second))
    encrypted = bytearray(good)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the general purpose flags
        encrypted[encrypted.find(mark) + offset] |= 1
    write("encrypted", bytes(encrypted))

    edited = {**golden, "0/0/out/y": golden["0/0/out/y"] + torch.tensor([0.0, 0.5, 0.0])}
    write("edited", pack(script, said, edited))
    wide = {**golden, "0/0/out/y": golden["0/0/out/y"].double()}
    write("wide", pack(script, said, wide))
    short = {**golden, "0/0/out/y": golden["0/0/out/y"][:1]}
    write("short", pack(script, said, short))
    write("drift", pack(torchscript(Drift()), said, golden))
    write("nan", pack(torchscript(Nan()), said, golden))
    said["methods"]["forward"]["outputs"] = tensor("y", "float64", "batch", 3)
    write("liar", pack(script, said, wide))
    said["methods"]["forward"]["outputs"] = {
        "kind": "tuple",
        "items": [tensor("y", "float32", "batch", 3), tensor("z", "float32", "batch", 3)],
    }
    said["methods"]["forward"]["tolerances"]["z"] = {"atol": 0, "rtol": 0}
    write("tuple_liar", pack(script, said, golden | {"0/0/out/z": golden["0/0/out/y"]}))


def make_mutations(folder: Path) -> None:
    """Write `tiny.pt` with each change of the shared table to its manifest."""
    script = torchscript(Tiny())
    said, golden = with_digests(script, tiny_manifest(), tiny_golden())
    for verdict in ("accepted", "refused"):
        (folder / verdict).mkdir(parents=True)
    for mutation in json.loads(MUTATIONS.read_text()):
        verdict = "accepted" if mutation["accepted"] else "refused"
        path = folder / verdict / f"{mutation['name']}.pt"
        if path.exists():
            raise ValueError(f"the mutation {mutation['name']!r} occurs twice")
        path.write_bytes(with_records(script, mutated(said, mutation), golden))


def make_odd(folder: Path) -> None:
    """Write the archive whose method takes every kind of argument."""

    def pair(prefix: str, *names: str) -> list[Json]:
        return [tensor(f"{prefix}.{name}", "float32", "n") for name in names]

    inputs = [
        argument("pair", {"kind": "tuple", "items": pair("pair", "0", "1"), "fields": None}),
        argument("xs", {"kind": "list", "items": None, "element": tensor("xs.*", "float32", "n")}),
        argument(
            "named",
            {
                "kind": "dict",
                "keys": ["a", "bb"],
                "items": pair("named", "a", "bb"),
                "element": None,
            },
        ),
        argument(
            "point",
            {"kind": "tuple", "items": pair("point", "left", "right"), "fields": ["left", "right"]},
        ),
        argument("text", {"kind": "str", "name": "text"}),
        argument("count", {"kind": "int", "name": "count"}),
        argument("scale", {"kind": "float", "name": "scale"}),
        argument("flag", {"kind": "bool", "name": "flag"}),
        argument(
            "extra",
            {"kind": "optional", "item": {"kind": "tuple", "items": pair("extra", "0", "1")}},
            False,
        ),
        argument("bias", {"kind": "float", "name": "bias"}, False),
    ]
    outputs = {
        "kind": "tuple",
        "items": [
            tensor("output.0", "float32", "n"),
            {"kind": "dict", "element": tensor("output.1.*", "float32", "n")},
            {"kind": "list", "element": tensor("output.2.*", "float32", "n")},
        ],
    }
    zero = {"atol": 0, "rtol": 0}
    names = ("output.0", "output.1.*", "output.2.*")
    forward = {"inputs": inputs, "outputs": outputs, "tolerances": dict.fromkeys(names, zero)}
    cases = [{"name": n, "method": "forward", "steps": 1} for n in ("without", "with")]
    golden: dict[str, Tensor] = {}
    for number in range(2):
        g = torch.Generator().manual_seed(number)
        a, b, c, d, e, f, h, k, m, n = torch.randn(10, number + 2, generator=g).unbind()
        extra = (m, n) if number else None
        flat = {
            "pair.0": a,
            "pair.1": b,
            "xs.0": c,
            "xs.1": d,
            "named.a": e,
            "named.bb": f,
            "point.left": h,
            "point.right": k,
            "text": torch.tensor(list(b"ship!"), dtype=torch.uint8),
            "count": torch.tensor(3),
            "scale": torch.tensor(0.1, dtype=torch.float64),
            "flag": torch.tensor(bool(number)),
        }
        if extra:
            flat |= {"extra.0": m, "extra.1": n, "bias": torch.tensor(0.25, dtype=torch.float64)}
        total, by_name, reverse = Odd()(
            (a, b),
            [c, d],
            {"a": e, "bb": f},
            Point(h, k),
            "ship!",
            3,
            0.1,
            bool(number),
            extra,
            0.25 if extra else 0.5,
        )
        golden |= {f"{number}/0/in/{name}": value.clone() for name, value in flat.items()}
        golden |= {
            f"{number}/0/out/output.0": total.clone(),
            f"{number}/0/out/output.1.total": by_name["total"].clone(),
            f"{number}/0/out/output.2.0": reverse[0].clone(),
            f"{number}/0/out/output.2.1": reverse[1].clone(),
        }
    said = manifest("odd", {"forward": forward}, cases)
    (folder / "odd.pt").write_bytes(pack(torchscript(Odd()), said, golden))
    (folder / "odd_plain.pt").write_bytes(torchscript(Odd()))


def make_state(folder: Path) -> None:
    """Write `counter.pt`, `total.pt` and `raises.pt`."""
    forward = {
        "inputs": [
            argument("x", tensor("x", "float32", "batch", 2)),
            argument("h", tensor("h", "float32", "batch", 2)),
        ],
        "outputs": {
            "kind": "tuple",
            "items": [tensor("twice", "float32", "batch", 2), tensor("sum", "float32", "batch", 2)],
        },
        "state": [{"input": "h", "output": "sum", "start": "zeros"}],
        "tolerances": {"twice": {"atol": 0, "rtol": 0}, "sum": {"atol": 0, "rtol": 0}},
    }
    golden: dict[str, Tensor] = {}
    h = torch.tensor([[10.0, 20.0]])
    golden["0/0/in/h"] = h
    for step in range(3):
        x = torch.tensor([[1.0 + step, -2.0 * step]])
        h = h + x
        golden |= {f"0/{step}/in/x": x, f"0/{step}/out/twice": h * 2, f"0/{step}/out/sum": h}
    said = manifest(
        "counter", {"forward": forward}, [{"name": "three steps", "method": "forward", "steps": 3}]
    )
    script = torchscript(Counter())
    (folder / "counter.pt").write_bytes(pack(script, said, golden))
    late = pack(script, said, golden | {"0/1/in/h": torch.zeros(1, 2)})
    (folder / "late_state.pt").write_bytes(late)

    forward = {
        "inputs": [
            argument("x", tensor("x", "float32", "batch", 2)),
            argument("h", tensor("h", "float32", 2)),
        ],
        "outputs": tensor("sum", "float32", 2),
        "state": [{"input": "h", "output": "sum", "start": "zeros"}],
        "tolerances": {"sum": {"atol": 0, "rtol": 0}},
    }
    said = manifest("total", {"forward": forward}, [{"name": "1", "method": "forward", "steps": 1}])
    x, h = torch.ones(3, 2), torch.ones(2)
    golden = {"0/0/in/x": x, "0/0/in/h": h, "0/0/out/sum": h + x.sum(0)}
    (folder / "total.pt").write_bytes(pack(torchscript(Total()), said, golden))

    method = {
        "inputs": [argument("x", tensor("x", "float32", "batch", 3))],
        "outputs": tensor("output", "float32", "batch", 2),
        "state": [],
        "tolerances": {"output": {"atol": 0, "rtol": 0}},
    }
    said = manifest(
        "raises",
        {"forward": method, "broken": method},
        [{"name": "too large", "method": "forward", "steps": 1}],
    )
    golden = {"0/0/in/x": torch.full((1, 3), 11.0), "0/0/out/output": torch.zeros(1, 2)}
    (folder / "raises.pt").write_bytes(pack(torchscript(Raises()), said, golden))


def make_talker(folder: Path) -> None:
    """Write `talker.pt`, which prints its input."""
    told = [{"x": torch.ones(rows, 2), "text": "é"} for rows in (2, 3)]
    export(target(Talker, told), folder / "talker.pt")


def make_large(folder: Path) -> None:
    """Write `large.pt`, whose 32 MB make a copy of it visible among other uses of memory."""
    export(target(Large, [{"x": torch.ones(rows, 2)} for rows in (2, 3)]), folder / "large.pt")


def target(module: type[nn.Module], examples: list[dict[str, object]]) -> Target:
    """Return the target that `torchship script` would make of the module and these examples."""

    def factory() -> nn.Module:
        return module().eval()

    name = module.__name__.lower()
    source = Source(factory=f"make_artefacts:{name}")
    return Target(name, source, factory, normalise(examples, name))


def make_acme(folder: Path) -> None:
    """Write `acme.pt`: `lstm-fused.pt` with acme_ops as the library of its operator."""
    archive = open_archive(folder / "lstm-fused.pt")
    of_acme = [
        CustomOperator(name=op.name, library="acme_ops")
        for op in archive.require_manifest().custom_ops
    ]
    said = archive.require_manifest().model_copy(update={"custom_ops": tuple(of_acme)})
    (folder / "acme.pt").write_bytes(
        archives.pack(torchscript_file.save(archive.load()), said, archive.golden)
    )


def main(folder: Path) -> None:
    """Write everything into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for model in MODELS:
        export(find_target(model, None, {}), folder / f"{model}.pt")
    make_tiny(folder)
    make_mutations(folder / "mutations")
    make_odd(folder)
    make_state(folder)
    make_acme(folder)
    make_talker(folder)
    make_large(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
