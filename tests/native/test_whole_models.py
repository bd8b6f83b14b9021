"""Whole models in C on every instruction set, and how the C treats memory and threads.

Our own models, and the modules of `architectures.py`; each group is one file of C.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import architectures
from compiled import exported
from hosted import Answer, Call, Hosted, Row, calls_of, same_bits
from torchship.models import registry
from torchship.script.runtime.archive import Archive, open_archive
from torchship.script.runtime.error_bound import check_outputs

MODULES = (*architectures.ACCEPTED, "scaled", "strict")
AVX512 = "avx512f avx512dq avx512bw avx512vl avx2 fma"
AVX2 = "avx2 fma"
SSE2 = "sse2"
CHOOSES = ("-D__builtin_cpu_supports(name)=host_supports(name)", "-include", "host.h")
"""Let the program, not the processor, say what there is."""


@dataclass(frozen=True)
class Group:
    """Archives in one file of C, the program on this processor, and the calls it makes."""

    archives: dict[str, Archive]
    hosted: Hosted
    program: Path
    calls: list[Call]
    rows: list[Row]
    fused: list[Answer]
    """The answers with AVX2, which has fused multiply-adds."""
    separate: list[Answer]
    """The answers with SSE2, which has none."""


def runs_here(*features: str) -> bool:
    """Whether this processor has instructions."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return set(features) <= set(text.split())


HAS_AVX512 = runs_here("avx512f", "avx512dq", "avx512bw", "avx512vl")


@pytest.fixture(scope="module", params=["models", "modules"])
def group(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    model_archive: Callable[[str], Path],
) -> Group:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "models":
        archives = {name: open_archive(model_archive(name)) for name in registry.names()}
    else:
        archives = {
            name: exported(folder, f"architectures:{name}", f"architectures:{name}_examples")
            for name in MODULES
        }
    if not runs_here("avx2", "fma"):
        pytest.skip("this processor has no AVX2")
    hosted = Hosted(archives, folder, complete=request.param == "modules")
    calls, rows = calls_of(hosted, archives)
    if "strict" in archives:
        calls.append(Call("strict_forward", {"x": torch.tensor([1, 7, 2])}))  # it raises
    program = hosted.build("program", "gcc", "-O1", *CHOOSES, "-DHOST_ABORTING_ALLOCATOR")
    return Group(
        archives,
        hosted,
        program,
        calls,
        rows,
        hosted.run([program, "--supports", AVX2], calls),
        hosted.run([program, "--supports", SSE2], calls),
    )


def assert_same_bits(group: Group, got: Sequence[Answer], wanted: Sequence[Answer]) -> None:
    for call, a, b in zip(group.calls, got, wanted, strict=True):
        assert (a.status, a.message) == (b.status, b.message), call.method
        for name, value in b.outputs.items():
            assert same_bits(a.outputs[name], value), (call.method, name, value.shape)


# --- instruction sets ---


@pytest.mark.parametrize("supports", [AVX512 if HAS_AVX512 else AVX2])
def test_the_widest_vectors_of_this_processor_give_the_bits_of_avx2(
    group: Group, supports: str
) -> None:
    got = group.hosted.run([group.program, "--supports", supports], group.calls)
    assert_same_bits(group, got, group.fused)


def test_plain_c_with_fmaf_gives_the_bits_of_avx2(group: Group) -> None:
    program = group.hosted.build("plain", "gcc", "-O1", "-DTS_ONLY_PLAIN", "-mfma")
    assert_same_bits(group, group.hosted.run([program], group.calls), group.fused)


def test_neon_gives_the_bits_of_avx2(group: Group) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no aarch64-linux-gnu-gcc, or no qemu-aarch64")
    program = group.hosted.build("neon", compiler, "-O1", "-static")
    got = group.hosted.run([emulator, program, "--once", "yes"], group.calls)
    assert_same_bits(group, got, group.fused)


RUN_WASM = """
const { WASI } = require("node:wasi");
const [file, ...args] = process.argv.slice(1);
const folder = require("node:path").dirname(file);
const options = { version: "preview1", args: ["host", ...args], preopens: { [folder]: folder } };
const wasi = new WASI(options);
const module = new WebAssembly.Module(require("node:fs").readFileSync(file));
process.exit(wasi.start(new WebAssembly.Instance(module, wasi.getImportObject())));
"""


def test_wasm_gives_the_bits_of_sse2(group: Group) -> None:
    node = shutil.which("node")
    if node is None or shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        pytest.skip("no node, or no clang with wasm-ld")
    options = ("--target=wasm32-wasi", "-msimd128", "-mbulk-memory")
    program = group.hosted.build("host.wasm", "clang", "-O1", *options)
    command: list[str | Path] = [node, "--no-warnings", "-e", RUN_WASM, program]
    assert_same_bits(group, group.hosted.run(command, group.calls), group.separate)


def test_a_row_alone_gives_the_bits_of_that_row_in_any_batch(group: Group) -> None:
    assert group.rows
    for answers in (group.fused, group.separate):
        for row in group.rows:
            many, one = answers[row.together], answers[row.alone]
            assert (many.status, one.status) == (0, 0), many.message + one.message
            method = group.calls[row.together].method
            axes = {
                field.leaf: field.batch_axis
                for field in group.hosted.methods[method].interface.outputs
            }
            for name, value in one.outputs.items():
                axis = axes[name]
                assert axis is not None, (method, name)
                part = many.outputs[name].narrow(axis, row.index, 1).contiguous()
                assert same_bits(part, value), (method, name, row)


@pytest.mark.parametrize("supports", [AVX2, SSE2])
def test_golden_cases_agree_with_and_without_fused_multiply_adds(
    group: Group, supports: str
) -> None:
    checked = 0
    for (name, number), results in golden_results(group, supports).items():
        archive = group.archives[name]
        differences = check_outputs(
            archive.require_manifest(),
            number,
            archive.golden[number],
            results,
            archive.float64_outputs,
        )
        for difference in differences:
            assert difference.agreed, (name, difference)
            checked += 1
    assert checked


def golden_results(
    group: Group, supports: str
) -> dict[tuple[str, int], list[dict[str, torch.Tensor]]]:
    """Return the outputs of all steps of all golden cases; a step gets the state of the last."""
    results: dict[tuple[str, int], list[dict[str, torch.Tensor]]] = {
        (name, number): []
        for name, archive in group.archives.items()
        for number in range(len(archive.golden))
    }
    step = 0
    while True:
        keys, calls = [], []
        for (name, number), before in results.items():
            archive = group.archives[name]
            case = archive.golden[number]
            if step >= len(case.steps):
                continue
            inputs = dict(case.steps[step].inputs)
            for state in archive.require_manifest().methods[case.method].state:
                if before:
                    inputs[state.input] = before[-1][state.output]
            keys.append((name, number))
            calls.append(Call(group.hosted.name(name, case.method), inputs))
        if not calls:
            return results
        answers = group.hosted.run([group.program, "--supports", supports], calls)
        for key, answer in zip(keys, answers, strict=True):
            assert answer.status == 0, answer.message
            results[key].append(answer.outputs)
        step += 1


# --- compilers ---


@pytest.mark.parametrize("group", ["modules"], indirect=True)
@pytest.mark.parametrize(("compiler", "level"), [("gcc", "-O0"), ("gcc", "-O3"), ("clang", "-O3")])
def test_every_compiler_gives_the_same_bits(compiler: str, level: str, group: Group) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    program = group.hosted.build(f"{compiler}{level}", compiler, level, "-DTS_ONLY_AVX2")
    assert_same_bits(group, group.hosted.run([program], group.calls), group.fused)


# --- memory and threads ---


def sanitized(group: Group, name: str, *options: str) -> Path:
    """Return the program built with sanitizers, which end it when they find something."""
    return group.hosted.build(name, "gcc", "-O1", "-fno-sanitize-recover=all", *options)


def best_here() -> str:
    """Return the option that compiles for the widest vectors of this processor alone."""
    return "-DTS_ONLY_AVX512" if HAS_AVX512 else "-DTS_ONLY_AVX2"


def test_no_access_is_out_of_bounds_and_nothing_is_undefined(group: Group) -> None:
    options = ("-fsanitize=address,undefined,float-cast-overflow", best_here())
    program = sanitized(group, "sanitized", *options)
    assert_same_bits(group, group.hosted.run([program], group.calls), group.fused)


@pytest.mark.parametrize("group", ["modules"], indirect=True)
@pytest.mark.parametrize("checks", ["address", "address,undefined"])
def test_no_vector_of_another_width_is_out_of_bounds(checks: str, group: Group) -> None:
    only = "-DTS_ONLY_SSE2" if checks == "address" else "-DTS_ONLY_PLAIN"
    program = sanitized(group, only.removeprefix("-D"), f"-fsanitize={checks}", only)
    got = group.hosted.run([program, "--selftest", "yes"], group.calls)
    assert_same_bits(group, got, group.separate)


@pytest.mark.parametrize("group", ["models"], indirect=True)
def test_threads_do_not_disturb_each_other(group: Group) -> None:
    program = sanitized(group, "threads", "-fsanitize=thread", "-DHOST_THREADS", best_here())
    got = group.hosted.run([program, "--threads", "3", "--once", "yes"], group.calls)
    assert_same_bits(group, got, group.fused)


@pytest.mark.parametrize("group", ["modules"], indirect=True)
def test_the_embedded_weights_are_those_of_the_archive(group: Group) -> None:
    got = group.hosted.run([group.program, "--supports", AVX2], group.calls, embedded=True)
    assert_same_bits(group, got, group.fused)


@pytest.mark.parametrize("group", ["modules"], indirect=True)
def test_the_models_message_comes_back(group: Group) -> None:
    assert group.fused[-1].status == 1
    assert group.fused[-1].message == "x: expected at most 5..., got 7 of [3]"


IMPORTS = {
    # memory
    *("memcpy", "memset", "memmove"),
    # mathematics
    *(
        "fmodf",
        "fmod",
        "floorf",
        "ceilf",
        "rintf",
        "truncf",
        "expf",
        "logf",
        "powf",
        "floor",
        "pow",
    ),
    *("ceil", "rint", "trunc", "erf", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "sqrt"),
    # what `__builtin_cpu_supports` asks; here the host instead
    "host_supports",
}
"""All that the C may need from elsewhere: nothing that allocates, prints or keeps state."""


def test_the_c_has_no_variables_and_imports_no_more_than_mathematics(group: Group) -> None:
    listed = subprocess.run(
        ["nm", "-f", "posix", group.program.with_name("program.o")],
        capture_output=True,
        text=True,
        check=True,
    )
    symbols = [line.split()[:2] for line in listed.stdout.splitlines()]
    assert len(symbols) > 20
    assert {name for name, kind in symbols if kind == "U"} <= IMPORTS
    assert [name for name, kind in symbols if kind in "dDbBcCsSgG"] == []
