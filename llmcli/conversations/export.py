"""Export a conversation as a JSON object or as Markdown, and import one from JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llmcli.conversations.store import now
from llmcli.conversations.tree import Node, Tree
from llmcli.errors import LlmcliError

SCHEMA = "llmcli.conversation/1"


def as_json(tree: Tree) -> dict[str, object]:
    """The current branch: `messages` in the usual format of chat programs, with the settings they were made with."""
    settings = tree.settings
    return {
        "schema": SCHEMA,
        "id": tree.begin.id if tree.begin else None,
        "time": tree.begin.time if tree.begin else None,
        "model": settings.model if settings else None,
        "system": settings.system if settings else None,
        "template_args": dict(settings.template_args) if settings else {},
        "branches": len(tree.leaves()),
        "messages": [_message(node) for node in tree.path()],
    }


def as_markdown(tree: Tree) -> str:
    """The current branch as Markdown, with a heading for each message."""
    parts = [f"# {' '.join(tree.title().split())[:80] or 'Conversation'}"]
    if tree.settings is not None and tree.settings.system:
        parts.append(f"## System\n\n{tree.settings.system}")
    for node in tree.path():
        cut = "\n\n*(interrupted)*" if node.is_cut else ""
        parts.append(f"## {node.model if node.is_reply else 'You'}\n\n{node.text.strip()}{cut}")
    return "\n\n".join(parts) + "\n"


def import_json(text: str, *, source: str) -> tuple[list[Node], str | None]:
    """Messages and system prompt from an object that `as_json` wrote, or from a list of `{"role", "content"}`.

    Raises:
        LlmcliError: other content, or user and assistant do not alternate; `source` is the file to name.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LlmcliError(f"{source} is not JSON: {error}.") from None
    messages = data.get("messages") if isinstance(data, dict) else data
    system = data.get("system") if isinstance(data, dict) else None
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise LlmcliError(f"{source} has no list of messages.")
    nodes: list[Node] = []
    for message in messages:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(content, str) or role not in ("system", "user", "assistant"):
            raise LlmcliError(f"{source} has a message that is not a text by system, user or assistant.")
        if role == "system":
            system = content
            continue
        if (role == "assistant") != (len(nodes) % 2 == 1):
            raise LlmcliError(f"{source}: user and assistant do not alternate at message {len(nodes) + 1}.")
        model = str(message.get("model") or "unknown") if role == "assistant" else None
        nodes.append(Node(len(nodes) + 1, len(nodes), now(), text=content, model=model))
    return nodes, system if isinstance(system, str) else None


def _message(node: Node) -> dict[str, object]:
    if not node.is_reply:
        return {"role": "user", "content": node.text, "time": node.time}
    return {
        "role": "assistant",
        "content": node.text,
        "time": node.time,
        "model": node.model,
        "ids": list(node.ids),
        "finish_reason": node.reason or "interrupted",
        "sampling": dict(node.sampling or {}),
    }
