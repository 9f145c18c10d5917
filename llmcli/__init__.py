"""Run open-weight language models in a terminal, and see what they are doing while they do it.

From Python: `llmcli.load("path/or/name")` gives a `LoadedModel`.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from llmcli.api import LoadedModel, load

__all__ = ["LoadedModel", "__version__", "load"]


def __getattr__(name: str) -> object:
    # On first use only: `llm --help` must not pay for importing torch.
    if name in ("load", "LoadedModel"):
        from llmcli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
