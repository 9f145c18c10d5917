"""Answers of a hub's server, checked before anything is done with them.

With HF_ENDPOINT the server may be any mirror, and in between there may be a proxy with a page of its own. The hub's
library takes file and folder names of its cache from headers, and every field as it comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llmcli.checkpoint.files.weight_file import shown
from llmcli.errors import ModelNotFoundError
from llmcli.hub.repo_files import HubName, is_safe

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# The hub's own are hashes in hexadecimal; mirrors have other identifiers, such as "5d41402a-3".
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+-]{0,199}")
_HEADERS = {"x-linked-etag": _NAME, "etag": _NAME, "x-repo-commit": _COMMIT}
# What reading fields of an object raises that has others, or is none.
_MISREAD = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository."""

    bytes: int
    blob: str | None
    """What the cache calls its content."""
    sha256: str | None
    """Known for large files only."""


def fetch_listing(name: HubName) -> tuple[str, dict[str, RemoteFile]]:
    """The commit that `name` means now, and its files but those whose names could lead outside a folder.

    Raises:
        ModelNotFoundError: the answer is not one of the hub. What else the library raises is passed on.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError

    try:
        info = HfApi().model_info(
            name.repo, revision=name.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        return _listing(info)
    except HFValidationError:
        raise
    except _MISREAD as error:
        raise not_the_hub(name) from error


def not_the_hub(name: HubName) -> ModelNotFoundError:
    """The error for an answer that is no answer of a hub."""
    from huggingface_hub import constants

    return ModelNotFoundError(
        f"The answer for {name.repo} from {_without_login(str(constants.ENDPOINT))} is not the hub's; it may be the "
        "page of a proxy or a login. Check the network, and HF_ENDPOINT if it is set."
    )


def _listing(info: Any) -> tuple[str, dict[str, RemoteFile]]:
    """The fields of an answer that are used; `ValueError` if one is not what it should be."""
    files = {}
    for sibling in info.siblings or []:
        file_name, size = sibling.rfilename, sibling.size
        sha256 = None if sibling.lfs is None else sibling.lfs.sha256
        blob = sha256 or sibling.blob_id
        if (
            not isinstance(file_name, str)
            or not (size is None or (type(size) is int and size >= 0))
            or not (sha256 is None or (isinstance(sha256, str) and _SHA256.fullmatch(sha256)))
            or not (blob is None or (isinstance(blob, str) and _NAME.fullmatch(blob)))
        ):
            raise ValueError(f"the listing has a damaged entry for {str(file_name)[:80]!r}")
        if is_safe(file_name):
            files[file_name] = RemoteFile(size or 0, blob, sha256)
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise ValueError("the listing names no commit")
    return info.sha, files


@contextmanager
def checked_headers() -> Iterator[None]:
    """Meanwhile, refuse answers whose headers the library would make file names of that lead elsewhere.

    Raises:
        ModelNotFoundError: in whatever call of the library gets such an answer.
    """
    from huggingface_hub import get_session

    hooks: list[Any] = get_session().event_hooks["response"]
    hooks.append(_check_headers)
    try:
        yield
    finally:
        hooks.remove(_check_headers)


def _check_headers(response: Any) -> None:
    # Only what is asked before a file is fetched names it.
    if response.request.method != "HEAD":
        return
    for header, allowed in _HEADERS.items():
        value = response.headers.get(header)
        # As the library reads it.
        if value and not allowed.fullmatch(value.lstrip("W/").strip('"')):
            raise ModelNotFoundError(
                f"The server calls the content of a file {shown(value)} ({header}), which is no name that the hub "
                "gives and could lead outside the cache, so nothing is fetched from it: check HF_ENDPOINT."
            )


def _without_login(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", "".join(c if c.isprintable() else " " for c in url))[:200]
