"""Products with packed weights, compiled for each kind of processor, agree; those for Arm run in an emulator."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from llmcli.kernels.cpu import build

# Compilers.
pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "support" / "kernels" / "products.c"
ARM_COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
MACHINES = {
    "native": ("-march=native",),
    "avx2": ("-march=native", *build._VARIANTS["avx2"]),
    "neon": ("-march=armv8-a",),
    "neon with dot products": ("-march=armv8.2-a+dotprod",),
}
needs_emulator = pytest.mark.skipif(
    shutil.which(ARM_COMPILER) is None or shutil.which(EMULATOR) is None,
    reason=f"{ARM_COMPILER} and {EMULATOR} are not installed",
)


def compile_for(compiler: str, flags: tuple[str, ...], source: Path, to: Path) -> None:
    common = [flag for flag in build._FLAGS if flag not in ("-fPIC", "-shared", "-fvisibility=hidden")]
    command = [compiler, *common, "-Wno-unused-function", "-Wno-maybe-uninitialized", "-Werror", *flags]
    subprocess.run([*command, "-I", str(build._SOURCES), str(source), "-o", str(to), "-lm"], check=True, timeout=120)


def products(command: list[str]) -> list[float]:
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [float(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The products of plain C."""
    program = tmp_path_factory.mktemp("portable") / "products"
    compile_for(build._compiler(), build._VARIANTS["portable"], SOURCE, program)
    return products([str(program)])


@pytest.mark.parametrize(
    "machine", ["native", "avx2", *(pytest.param(name, marks=needs_emulator) for name in MACHINES if "neon" in name)]
)
def test_products_of_every_instruction_set(machine: str, expected: list[float], tmp_path: Path) -> None:
    program = tmp_path / "products"
    if "neon" in machine:
        compile_for(ARM_COMPILER, (*MACHINES[machine], "-static"), SOURCE, program)
        found = products([EMULATOR, str(program)])
    elif machine == "avx2" and platform.machine() != "x86_64":
        pytest.skip("AVX2 is an instruction set of x86")
    else:
        compile_for(build._compiler(), MACHINES[machine], SOURCE, program)
        found = products([str(program)])
    # Whole numbers are summed exactly; only sums of groups are rounded, in a different order.
    assert len(expected) > 10_000
    assert found == pytest.approx(expected, abs=1e-5 * max(map(abs, expected)))


@needs_emulator
@pytest.mark.parametrize("machine", ["neon", "neon with dot products"])
def test_the_whole_kernel_compiles_for_arm(machine: str, tmp_path: Path) -> None:
    flags = (*MACHINES[machine], "-fPIC", "-shared")
    compile_for(ARM_COMPILER, flags, build._SOURCES / "decoder.c", tmp_path / "kernel.so")
