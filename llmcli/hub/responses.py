"""Validate responses of a hub server before they are used.

HF_ENDPOINT may point to any mirror, and a proxy may answer with its own page. The hub library uses headers as file and
folder names in its cache, and does not validate fields.
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
# The hub's names are hexadecimal hashes; mirrors use other identifiers, such as "5d41402a-3".
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+-]{0,199}")
_HEADERS = {"x-linked-etag": _NAME, "etag": _NAME, "x-repo-commit": _COMMIT}
# Errors from reading the fields of a response that has other fields, or of something else.
_MISREAD = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository."""

    bytes: int
    blob: str | None
    """The name of its content in the cache."""
    sha256: str | None
    """Known for large files only."""


def fetch_listing(name: HubName) -> tuple[str, dict[str, RemoteFile]]:
    """The current commit that `name` means, and its files, without those whose names could lead out of a folder.

    Raises:
        ModelNotFoundError: the response is not one of a hub. Other errors of the library are passed on.
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
    """The error for a response that is not one of a hub."""
    from huggingface_hub import constants

    return ModelNotFoundError(
        f"The answer for {name.repo} from {_without_login(str(constants.ENDPOINT))} is not the hub's; it may be the "
        "page of a proxy or a login. Check the network, and HF_ENDPOINT if it is set."
    )


def _listing(info: Any) -> tuple[str, dict[str, RemoteFile]]:
    """Extract and check the fields that are used; `ValueError` for an invalid one."""
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
    """Inside the block, refuse responses whose headers would give the library file names outside its cache.

    Raises:
        ModelNotFoundError: from the library call that gets such a response.
    """
    from huggingface_hub import get_session

    hooks: list[Any] = get_session().event_hooks["response"]
    hooks.append(_check_headers)
    try:
        yield
    finally:
        hooks.remove(_check_headers)


def _check_headers(response: Any) -> None:
    # The library takes file names only from HEAD responses.
    if response.request.method != "HEAD":
        return
    for header, allowed in _HEADERS.items():
        value = response.headers.get(header)
        # Strip the same characters as the library.
        if value and not allowed.fullmatch(value.lstrip("W/").strip('"')):
            raise ModelNotFoundError(
                f"The server calls the content of a file {shown(value)} ({header}), which is not a name that the hub "
                "gives and could lead outside the cache, so nothing is fetched from it: check HF_ENDPOINT."
            )


def _without_login(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", "".join(c if c.isprintable() else " " for c in url))[:200]
