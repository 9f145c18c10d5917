"""Decide whether torch is imported plainly: because the user asks for it, or because its version is untested."""

from __future__ import annotations

import os

OFF_SWITCH = "LLMCLI_PLAIN_IMPORT"
"""Environment variable; 1 means that torch is imported plainly."""
TESTED_VERSIONS = ("2.9", "2.13")
"""Releases of torch, major and minor, on which the tests of this folder have passed: the ends of the range in
pyproject.toml. Deferring depends on torch's internals, so other releases are imported plainly.
"""


def imports_plainly() -> bool:
    """Whether nothing may be deferred or loaded ahead; true also if torch's version cannot be read."""
    if os.environ.get(OFF_SWITCH) == "1":
        return True
    from llmcli.torch_build import torch_build

    build = torch_build()
    return build is None or ".".join(build.version.split(".")[:2]) not in TESTED_VERSIONS
