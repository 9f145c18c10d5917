"""When torch is imported as Python imports any package: because the user asks, or because its version is untested."""

from __future__ import annotations

import os

OFF_SWITCH = "LLMCLI_PLAIN_IMPORT"
"""The environment variable that, being 1, has torch imported plainly."""
TESTED_VERSIONS = ("2.9", "2.13")
"""The releases of torch, major and minor, that the tests of this folder have passed on: the ends of the range in
pyproject.toml. Which parts of torch can be deferred depends on its internals, so any other release is imported plainly.
"""


def imports_plainly() -> bool:
    """Whether nothing may be deferred or loaded ahead; true as well where the version of torch cannot be read."""
    if os.environ.get(OFF_SWITCH) == "1":
        return True
    from llmcli.torch_build import torch_build

    build = torch_build()
    return build is None or ".".join(build.version.split(".")[:2]) not in TESTED_VERSIONS
