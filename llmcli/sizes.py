"""Format numbers of bytes: one unit for a size, wherever it is shown."""

from __future__ import annotations


def size(nbytes: float) -> str:
    """A number of bytes in the binary unit that suits it: "48 B", "1.5 KiB", "94 MiB" or "4.88 GiB"."""
    if nbytes < 1024:
        return f"{nbytes:.0f} B"
    for unit in ("KiB", "MiB"):
        nbytes /= 1024
        # What rounds to 1024 belongs to the next unit.
        if nbytes < 1023.5:
            return f"{nbytes:.2g} {unit}" if nbytes < 9.95 else f"{nbytes:.0f} {unit}"
    return f"{nbytes / 1024:.2f} GiB"
