"""Export a conversation as a JSON object or as Markdown, and import one from JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llmcli.conversations.store import now
from llmcli.conversations.tree import Node, Tree
from llmcli.errors import LlmcliError

SCHEMA = "llmcli.conversation/1"
# The settings in Markdown.
_DETAILS = ("temperature", "top_k", "top_p", "min_p", "max_tokens", "seed")


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
        "raw": settings.raw if settings else False,
        "branches": len(tree.leaves()),
        "messages": [_message(node) | _others(tree, node) for node in tree.path()],
    }


def as_markdown(tree: Tree, *, details: bool = False) -> str:
    """The current branch as Markdown, with a heading for each message.

    With `details`, each reply has its settings and sizes, and other replies to the same message are there too.
    """
    parts = [f"# {' '.join(tree.title().split())[:80] or 'Conversation'}"]
    if tree.settings is not None and tree.settings.system:
        parts.append(f"## System\n\n{tree.settings.system}")
    for node in tree.path():
        shown = tree.replies_to(node.after) if details and node.is_reply else [node]
        for each in shown:
            cut = "\n\n*(interrupted)*" if each.is_cut else ""
            more = f"\n\n*{_details(each)}*" if details and each.is_reply else ""
            parts.append(f"## {each.model if each.is_reply else 'You'}\n\n{each.text.strip()}{cut}{more}")
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
        "prompt_tokens": node.prompt_tokens or None,
        "finish_reason": node.reason or "interrupted",
        "sampling": dict(node.sampling or {}),
    }


def _others(tree: Tree, node: Node) -> dict[str, object]:
    """The other replies to the same message as `alternatives`, if there are any."""
    others = [each for each in tree.replies_to(node.after) if each is not node] if node.is_reply else []
    return {"alternatives": [_message(each) for each in others]} if others else {}


def _details(node: Node) -> str:
    """How a reply was made: when, its tokens, its end, and the most used settings; JSON has all of them."""
    sampling = node.sampling or {}
    settings = [f"{name.replace('_', '-')} {sampling[name]}" for name in _DETAILS if sampling.get(name) is not None]
    sizes = f"{node.prompt_tokens or '?'} tokens read, {len(node.ids)} written"
    return " · ".join([node.time, sizes, f"ended by {node.reason or 'interrupted'}", *settings])
