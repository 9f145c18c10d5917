"""Findings about this machine and about a model: good, worth knowing, or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from llmcli.sizes import size
from llmcli.views.terminal.colors import AMBER, GREEN, RED
from llmcli.views.terminal.sanitize import visible

if TYPE_CHECKING:
    from llmcli.doctor.finding import Finding
    from llmcli.doctor.machine import MachineReport

SCHEMA = "llmcli.doctor/1"
_MARKS = {"good": ("ok", GREEN), "note": ("note", AMBER), "problem": ("WRONG", f"bold {RED}")}


def machine_table(machine: MachineReport) -> Table:
    """Versions, device, memory, and the program's directories."""
    table = _table()
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    table.add_row("versions", f"{versions} ({machine.torch_build})")
    table.add_row("system", machine.system)
    others = [name for name in machine.devices if name != machine.device]
    more = f"; there are also {', '.join(others)}" if others else ""
    table.add_row("device", f"{machine.device}, {machine.device_name}{more}")
    table.add_row("computes in", f"{machine.dtype}, {machine.implementation}")
    table.add_row("threads", f"{machine.threads}, on {machine.cores} processors")
    table.add_row("memory", f"{_bytes(machine.memory_bytes)}, {_bytes(machine.free_memory_bytes)} free")
    for folder in machine.folders:
        kept = "does not exist" if folder.bytes is None else size(folder.bytes)
        table.add_row(folder.purpose, Text(visible(f"{folder.path}  {kept}")))
    table.add_row("disk", f"{_bytes(machine.free_disk_bytes)} free for models")
    return table


def findings_view(name: str, findings: Sequence[Finding]) -> Group:
    """One line per finding."""
    table = _table(3)
    for finding in findings:
        mark, style = _MARKS[finding.level]
        table.add_row(Text(mark, style=style), finding.subject, Text(visible(finding.message)))
    return Group(Text(visible(name), style="bold"), table)


def _table(columns: int = 2) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column("", style="dim" if columns == 2 else "", no_wrap=True)
    for _ in range(columns - 1):
        table.add_column("", overflow="fold")
    return table


def _bytes(count: int | None) -> str:
    return "unknown" if count is None else size(count)
