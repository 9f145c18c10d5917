"""Compiling the kernel: once for all processes, and never a partial file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import build, threads

# The C kernel is compiled again.
pytestmark = pytest.mark.slow

FLAGS = ("-DLLM_PORTABLE", "-shared", "-fPIC", "-O0", "-pthread")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path / "kernels")
    return tmp_path / "kernels"


def compiler() -> str:
    return build._compiler()


def test_a_compiled_kernel_is_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build._cached(compiler(), FLAGS)
    assert path.parent == cache
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("compiled again"))
    assert build._cached(compiler(), FLAGS) == path
    assert sorted(found.suffix for found in cache.iterdir()) == [".lock", ".so"]


def test_a_damaged_file_is_compiled_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build._cached(compiler(), FLAGS)
    whole, compiled = path.read_bytes(), 0

    def compile_again(_compiler: str, _flags: object, to: Path) -> None:
        nonlocal compiled
        compiled += 1
        to.write_bytes(whole)

    monkeypatch.setattr(build, "_compile", compile_again)
    for damaged in (b"", b"\x7fELF", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(damaged)
        assert build._cached(compiler(), FLAGS) == path
        assert path.read_bytes() == whole
    assert compiled == 4
    assert build._cached(compiler(), FLAGS) == path
    assert compiled == 4


def test_source_flags_compiler_and_processor_determine_the_key(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        build._key(compiler(), FLAGS),
        build._key(compiler(), (*FLAGS, "-DX")),
        build._key("/bin/sh", ()),
    }
    monkeypatch.setattr(build, "_processor", lambda: "another")
    names.add(build._key(compiler(), FLAGS))
    copy = cache.parent / "csrc"
    shutil.copytree(build._SOURCES, copy)
    assert build._key(compiler(), FLAGS, copy) in names
    header = copy / "matmul" / "int4.h"
    header.write_text(header.read_text() + "\n")
    names.add(build._key(compiler(), FLAGS, copy))
    header.rename(copy / "int4.h")
    names.add(build._key(compiler(), FLAGS, copy))
    assert len(names) == 6


@pytest.mark.parametrize(("vendor", "flags"), [("GenuineIntel", {"-DLLM_INTEL"}), ("AuthenticAMD", set())])
def test_intel_processors_get_a_compiler_flag(monkeypatch: pytest.MonkeyPatch, vendor: str, flags: set[str]) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(build, "_cpu_info", lambda *fields: f"{fields[0]}\t: {vendor}")
    assert set(build._machine_flags()) == {"-march=native", *flags}


def test_every_header_is_included_and_names_its_own_includes() -> None:
    command = [compiler(), *build._FLAGS, *build._machine_flags(), "-Wno-unused-function", "-Werror"]
    whole = subprocess.run(
        [*command, "-MM", str(build._SOURCES / "decoder.c")], capture_output=True, text=True, check=True, timeout=120
    )
    included = {Path(word).resolve() for word in whole.stdout.replace("\\\n", " ").split()[1:]}
    assert included == {source.resolve() for source in build.sources()}
    for header in build.sources():
        if header.suffix == ".h":
            text = f'#define _GNU_SOURCE\n#include "{header}"\n'
            alone = [*command, "-fsyntax-only", "-x", "c", "-"]
            subprocess.run(alone, input=text, text=True, check=True, timeout=120)


def test_two_processes_compile_once(tmp_path: Path) -> None:
    code = (
        "import sys, llmcli.kernels.cpu.build as build\n"
        "plain = build._compile\n"
        "def compile(*arguments):\n    print('compiled')\n    plain(*arguments)\n"
        "build._compile = compile\n"
        f"print(build._cached(build._compiler(), {FLAGS!r}).exists())"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    runs = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = "".join(run.communicate(timeout=120)[0] for run in runs)
    assert sorted(said.split()) == ["True", "True", "compiled"]


def test_a_missing_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(NoKernelError, match="no C compiler found"):
        build.load_library("native", ("-DNEVER",))


def test_a_failing_compiler_is_reported(cache: Path) -> None:
    with pytest.raises(NoKernelError, match=r"failed: .*unrecognized|failed: .*unknown"):
        build._cached(compiler(), (*FLAGS, "--no-such-flag"))
    assert not list(cache.glob("*.so"))


def test_an_unwritable_cache_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path / "file" / "kernels")
    with pytest.raises(NoKernelError, match="could not be stored"):
        build._cached(compiler(), FLAGS)


def test_another_version_of_the_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.kernels.cpu.c_structs.ABI", 999)
    with pytest.raises(NoKernelError, match="structures"):
        build.load_library.__wrapped__("portable")


def test_the_kernel_compiles_without_warnings() -> None:
    for flags in (*build._VARIANTS.values(), ("-DLLM_INTEL",)):
        command = [compiler(), *build._FLAGS, *build._machine_flags(), *flags, "-Werror", "-fsyntax-only"]
        subprocess.run([*command, str(build._SOURCES / "decoder.c")], check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processors cannot be chosen here")
def test_default_threads_are_physical_cores_within_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 8})
    for number, core in ((0, 0), (1, 1), (2, 0), (3, 1), (8, 4)):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "core_id").write_text(f"{core}\n")
        (folder / "physical_package_id").write_text("0\n")
    quota = tmp_path / "cpu.max"
    assert threads.physical_cores(tmp_path) == [[0, 2], [1, 3], [8]]
    assert threads.default_threads(tmp_path, quota) == 3
    for text, expected in (("max 100000\n", 3), ("150000 100000\n", 2), ("20000 100000\n", 1), ("odd", 3)):
        quota.write_text(text)
        assert threads.default_threads(tmp_path, quota) == expected
