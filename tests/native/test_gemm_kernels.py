"""Matrix products and sums of native/kernels/: bit for bit those of a loop over scalars."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "native" / "kernels"
CHECK = Path(__file__).with_name("gemm_check.c")
FLAGS = ["-O3", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffp-contract=off", f"-I{KERNELS}"]

HOST = """
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif
#include "portable.h"
#define OPERAND_BYTES (1 << 21)
#if defined(__wasm__)
static float operands[4][OPERAND_BYTES / 4] TS_ALIGNED;
static float *operand_end(int which) { return operands[which] + OPERAND_BYTES / 4; }
#else
#include <sys/mman.h>
/* The end of a region of memory with a page behind it that cannot be touched. */
static float *operand_end(int which) {
  static char *regions[4];
  if (regions[which] == NULL) {
    void *region = mmap(NULL, OPERAND_BYTES + 65536, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED || mprotect((char *)region + OPERAND_BYTES, 65536, PROT_NONE) != 0)
      abort();
    regions[which] = (char *)region;
  }
  return (float *)(void *)(regions[which] + OPERAND_BYTES);
}
#endif
"""


def source(name: str) -> str:
    """A program that checks the kernels of one pass; it prints what is wrong."""
    parts = [(KERNELS / f"{part}.h").read_text() for part in ("vector", "scalar", "rows", "gemm")]
    parts.append(CHECK.read_text())
    begin, end = ((KERNELS / f"passes_{part}.h").read_text() for part in ("begin", "end"))
    names = sorted(set(re.findall(r"\bts_\w+", "".join(parts))))
    lower = name.lower()
    return "\n".join(
        [
            "#define _DEFAULT_SOURCE",
            HOST,
            *(f"#define {each} TS_NAME({each})" for each in names),
            f"#define TS_PASS_{name}",
            begin,
            *parts,
            end,
            *(f"#undef {each}" for each in names),
            "int main(int count, char **arguments) {",
            "  (void)arguments;",
            f"  return ts_check_{lower}(count > 1) != 0;",
            "}\n",
        ]
    )


def runs_here(name: str) -> bool:
    """Whether this processor has the instructions of a pass."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    needed = {"AVX512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}, "AVX2": {"avx2", "fma"}}
    return needed.get(name, {"sse2"}) <= set(flags)


@pytest.mark.parametrize(
    ("name", "compiler", "options"),
    [
        *([("AVX512", "gcc", ["-std=c11"])] if runs_here("AVX512") else []),
        ("AVX2", "clang++", ["-std=c++17", "-x", "c++"]),
        ("SSE2", "g++", ["-std=c++17", "-x", "c++"]),
        ("PLAIN", "gcc", ["-std=c11", "-mfma"]),
        ("PLAIN", "clang", ["-std=c11", "-fsanitize=address,undefined", "-O1"]),
    ],
)
def test_kernels_of_this_processor(
    tmp_path: Path, name: str, compiler: str, options: list[str]
) -> None:
    if not runs_here("AVX2" if "-mfma" in options else name):
        pytest.skip(f"this processor has no {name}")
    if compiler != "gcc" and shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    (tmp_path / "check.c").write_text(source(name))
    subprocess.run(
        [compiler, *FLAGS, *options, "check.c", "-o", "check", "-lm"], cwd=tmp_path, check=True
    )
    thorough = [] if "-O1" in options else ["thorough"]
    run = subprocess.run(["./check", *thorough], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr


def test_kernels_of_neon(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no aarch64-linux-gnu-gcc, or no qemu-aarch64")
    (tmp_path / "check.c").write_text(source("NEON"))
    subprocess.run(
        [compiler, *FLAGS, "-std=c11", "-static", "check.c", "-o", "check", "-lm"],
        cwd=tmp_path,
        check=True,
    )
    run = subprocess.run([emulator, "./check"], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr


RUN_WASM = """
const { WASI } = require("node:wasi");
const wasi = new WASI({ version: "preview1", args: ["check"] });
const module = new WebAssembly.Module(require("node:fs").readFileSync("check.wasm"));
process.exit(wasi.start(new WebAssembly.Instance(module, wasi.getImportObject())));
"""


def test_kernels_of_wasm(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        pytest.skip("no node, or no clang with wasm-ld")
    (tmp_path / "check.c").write_text(source("WASM"))
    options = ["--target=wasm32-wasi", "-msimd128", "-std=c11"]
    build = subprocess.run(
        ["clang", *FLAGS, *options, "check.c", "-o", "check.wasm", "-lm"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    if "'stdint.h' file not found" in build.stderr or "libclang_rt" in build.stderr:
        pytest.skip("no C library for wasm")
    assert build.returncode == 0, build.stderr
    run = subprocess.run(
        [node, "--no-warnings", "-e", RUN_WASM], cwd=tmp_path, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
