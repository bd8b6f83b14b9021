"""The functions of native/kernels/elementary.h: their error, and the same bits everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
KERNELS = ROOT / "native" / "kernels"
HARNESS = Path(__file__).with_name("elementary_kernels.c")
STRICT = ["-O3", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffp-contract=off"]

# The bounds that elementary.h states, in ULP: with FMA, and without.
BOUNDS = {
    "exp": (0.9, 1.2),
    "expm1": (1.6, 1.7),
    "log": (0.9, 0.9),
    "log1p": (1.6, 1.7),
    "tanh": (2.5, 2.5),
    "sigmoid": (2.0, 2.0),
    "erf": (2.0, 2.5),
    "softplus": (2.1, 2.1),
    "sin": (1.6, 1.6),
    "cos": (1.6, 1.6),
}


def compile_harness(folder: Path, compiler: list[str], *options: str) -> Path:
    """Compile the harness, every name of a kernel with the suffix of its instruction set."""
    sources = [*sorted(KERNELS.glob("*.h")), HARNESS]
    code = "".join(re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.S) for file in sources)
    names = sorted(set(re.findall(r"\bts_\w+", code)))
    (folder / "names.h").write_text("".join(f"#define {n} TS_NAME({n})\n" for n in names))
    program = folder / "harness"
    quoted = ["-iquote", str(KERNELS), "-iquote", str(folder)]
    command = [*compiler, *STRICT, *quoted, str(HARNESS), "-o", str(program), *options]
    subprocess.run(command, check=True, timeout=300)
    return program


def needs(*programs: str) -> None:
    """Skip the test if one of the programs is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def output_of(*command: str | Path) -> str:
    done = subprocess.run(command, check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    return done.stdout


def digests(output: str) -> dict[tuple[str, bool, str], str]:
    """What `digest` printed, by pass, whether it has FMA, and function."""
    found = {}
    for line in output.splitlines():
        name, fma, function, of_vectors, of_scalars = line.split()
        assert of_vectors == of_scalars, f"{function} of one number differs on {name}"
        found[name, fma == "1", function] = of_vectors
    return found


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vectors = ["-lmvec"] if "x86_64" in output_of("gcc", "-dumpmachine") else []
    options = ["-DSWEEP", *vectors, "-lm", "-lpthread"]
    return compile_harness(tmp_path_factory.mktemp("harness"), ["gcc"], *options)


@pytest.fixture(scope="module")
def native_digests(harness: Path) -> dict[tuple[str, bool, str], str]:
    return digests(output_of(harness, "digest"))


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, native_digests: dict[tuple[str, bool, str], str]
) -> dict[tuple[bool, str], str]:
    """The digests of the plain pass, with fmaf and without."""
    folder = tmp_path_factory.mktemp("fmaf")
    # fmaf of the C library rounds once too where the compiler has no instruction for it.
    with_fmaf = compile_harness(folder, ["gcc"], "-DFP_FAST_FMAF", "-lm")
    plain = native_digests | digests(output_of(with_fmaf, "digest", "plain"))
    return {(fma, f): value for (name, fma, f), value in plain.items() if name == "plain"}


@pytest.mark.parametrize("function", BOUNDS)
def test_error_over_all_numbers(
    harness: Path, native_digests: dict[tuple[str, bool, str], str], function: str
) -> None:
    """Every float32 on the fastest pass; one of 64 blocks of them without FMA."""
    fastest, fma, _ = next(iter(native_digests))
    without = next(name for name, has_fma, _ in native_digests if not has_fma)
    for name, has_fma, blocks in [(fastest, fma, 1), (without, False, 64)]:
        report = output_of(harness, "sweep", name, function, str(blocks))
        assert float(report.split()[2]) <= BOUNDS[function][0 if has_fma else 1], report


def check(found: dict[tuple[str, bool, str], str], expected: dict[tuple[bool, str], str]) -> None:
    assert {function for _, _, function in found} == set(BOUNDS)
    differing = [key for key, value in found.items() if value != expected[key[1:]]]
    assert not differing


def test_same_bits_of_every_width(
    native_digests: dict[tuple[str, bool, str], str], expected: dict[tuple[bool, str], str]
) -> None:
    check(native_digests, expected)


@pytest.mark.parametrize("compiler", [["clang"], ["clang++", "-x", "c++"], ["g++", "-x", "c++"]])
def test_same_bits_of_other_compilers(
    tmp_path: Path, compiler: list[str], expected: dict[tuple[bool, str], str]
) -> None:
    needs(compiler[0])
    program = compile_harness(tmp_path, compiler, "-lm")
    check(digests(output_of(program, "digest")), expected)


def test_same_bits_on_arm(tmp_path: Path, expected: dict[tuple[bool, str], str]) -> None:
    needs("aarch64-linux-gnu-gcc", "qemu-aarch64")
    program = compile_harness(tmp_path, ["aarch64-linux-gnu-gcc"], "-static", "-lm")
    check(digests(output_of("qemu-aarch64", program, "digest")), expected)


RUN_WASM = """
const { WASI } = require("wasi");
const wasi = new WASI({ version: "preview1", args: ["harness", "digest"] });
WebAssembly.instantiate(require("fs").readFileSync(process.argv[1]), wasi.getImportObject())
  .then(({ instance }) => wasi.start(instance));
"""


def test_same_bits_in_wasm(tmp_path: Path, expected: dict[tuple[bool, str], str]) -> None:
    needs("clang", "wasm-ld", "node")
    if not Path("/usr/include/wasm32-wasi").exists():
        pytest.skip("wasi-libc is not installed")
    program = compile_harness(tmp_path, ["clang", "--target=wasm32-wasi", "-msimd128"], "-lm")
    check(digests(output_of("node", "--no-warnings", "-e", RUN_WASM, program)), expected)
