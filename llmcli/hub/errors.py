"""Turn errors of the hub library into one sentence that a user can act on, without tokens in it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from llmcli.errors import ModelNotFoundError
from llmcli.hub.pip_output import without_credentials
from llmcli.hub.repo_files import HubName
from llmcli.hub.responses import not_the_hub

_TOKEN = re.compile(r"\bhf_\w{8,}|(?i:bearer)\s+\S+")
_QUERY = re.compile(r"\?\S+")

OFFLINE = "The hub is switched off (HF_HUB_OFFLINE), and {name} is not completely in the cache."


@contextmanager
def plain_errors(name: HubName) -> Iterator[None]:
    """Turn any exception in the block into a `ModelNotFoundError` about `name`."""
    try:
        yield
    except Exception as error:
        # Our own error is clear already; the library may have wrapped it.
        ours = next((link for link in _chain(error) if isinstance(link, ModelNotFoundError)), None)
        raise ours or ModelNotFoundError(_sentence(error, name)) from error


def _sentence(error: Exception, name: HubName) -> str:
    kinds = {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}
    status = next((code for link in _chain(error) if (code := _status(link)) is not None), None)
    systems = [link for link in _chain(error) if isinstance(link, OSError) and link.errno is not None]
    if "OfflineModeIsEnabled" in kinds:
        return OFFLINE.format(name=name)
    if "GatedRepoError" in kinds:
        return (
            f"{name.repo} is gated: ask for access on its page on the hub, "
            "then log in with `hf auth login` or set HF_TOKEN."
        )
    if "RevisionNotFoundError" in kinds:
        return f"{name.repo} has no revision {name.revision or 'main'!r} on the hub; check the name after the @."
    if "RepositoryNotFoundError" in kinds:
        return (
            f"There is no model {name.repo} on the hub, or it is private: check the name, "
            "and for a private one log in with `hf auth login` or set HF_TOKEN."
        )
    if "FileMetadataError" in kinds:
        return str(not_the_hub(name))
    if status in (401, 403):
        return (
            f"The hub refused access to {name.repo} (HTTP {status}): log in with `hf auth login` "
            "or set HF_TOKEN to a token that may read it."
        )
    if status == 404:
        return f"There is no {name.repo} on the hub (HTTP 404): check the name."
    if status == 429:
        return (
            f"The hub reports too many requests (HTTP 429), so {name.repo} could not be fetched; "
            "wait some minutes, or log in with `hf auth login` for a higher limit."
        )
    if status is not None and status >= 500:
        return f"The hub failed (HTTP {status}), so {name.repo} could not be fetched; try again later."
    if any(link.errno in (errno.ENOSPC, errno.EDQUOT) for link in systems):
        return f"The disk is full, so {name.repo} could not be fetched; files that were complete are kept."
    if any(isinstance(link, PermissionError) for link in systems) or any(link.errno == errno.EROFS for link in systems):
        return f"The hub cache cannot be written, so {name.repo} could not be fetched; set HF_HOME to another folder."
    if any("Timeout" in kind for kind in kinds):
        return f"The hub did not answer in time, so {name.repo} could not be fetched; try again later."
    if "Consistency check failed" in str(error) or kinds & {"RemoteProtocolError", "ChunkedEncodingError", "ReadError"}:
        return f"The download of {name.repo} broke off; files that were complete are kept, so pull it again."
    if kinds & {"ConnectError", "ConnectionError", "ProxyError", "SSLError", "NetworkError"}:
        return f"The hub cannot be reached ({_reason(error)}), so {name.repo} could not be fetched: check the network."
    return f"{name.repo} could not be fetched from the hub: {_reason(error)}."


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, latest first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _reason(error: Exception) -> str:
    """The first line of the innermost message, without secrets, in at most 200 characters."""
    texts = [str(link).strip() for link in _chain(error)]
    first = next((text.splitlines()[0] for text in reversed(texts) if text), type(error).__name__)
    clean = _TOKEN.sub("***", _QUERY.sub("", without_credentials(first)))
    return "".join(c if c.isprintable() else " " for c in clean)[:200].rstrip(".")
