"""A Llama checkpoint whose replies a test chooses: its output head is a table of next tokens.

Embeddings are one-hot, attention and feed-forward add nothing, so the logits after a token depend on that token alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from tests.support.models.tiny import SPECIALS, byte_tokenizer, save, tiny_model

BOS, END, USER, ASSISTANT, SYSTEM = range(256, 256 + len(SPECIALS))
_HIDDEN = 264
_NEVER = -30.0


def ids_of(data: bytes) -> list[int]:
    """The ids of the byte tokens that spell `data`."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    # GPT-2's alphabet: printable bytes stand for themselves, the others for the characters from 256 on.
    alphabet = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    vocabulary = byte_tokenizer().get_vocab()
    return [vocabulary[alphabet[byte]] for byte in data]


def chain(data: bytes, *, then: int = END) -> dict[int, Mapping[int, float]]:
    """Transitions that make the model answer with `data`, whose bytes must all differ, and then the token `then`."""
    ids = [ASSISTANT, *ids_of(data), then]
    if len(set(ids)) != len(ids):
        raise ValueError("each byte can only have one successor")
    return {before: {after: 1.0} for before, after in itertools.pairwise(ids)}


def loop(data: bytes) -> dict[int, Mapping[int, float]]:
    """Transitions that make the model repeat `data` forever."""
    first = ids_of(data)[0]
    return chain(data, then=END) | {ids_of(data)[-1]: {first: 1.0}}


def write_puppet(
    folder: Path, transitions: Mapping[int, Mapping[int, float]], *, context: int = 512, layers: int = 1
) -> Path:
    """A checkpoint in which token a is followed by token b with probability `transitions[a][b]`.

    Tokens without an entry are followed by the end of the reply.
    """
    model = tiny_model(
        "llama",
        hidden_size=_HIDDEN,
        intermediate_size=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=layers,
        max_position_embeddings=context,
    )
    state = model.state_dict()
    for name, values in state.items():
        values.fill_(1.0 if "norm" in name else 0.0)
    vocabulary = state["lm_head.weight"].shape[0]
    state["model.embed_tokens.weight"][:, :vocabulary] = torch.eye(vocabulary)
    # The final norm scales a one-hot row to sqrt(C).
    scale = math.sqrt(_HIDDEN)
    head = torch.full((vocabulary, vocabulary), _NEVER)
    for before in range(vocabulary):
        for after, probability in transitions.get(before, {END: 1.0}).items():
            head[after, before] = math.log(probability)
    state["lm_head.weight"][:, :vocabulary] = head / scale
    model.load_state_dict(state)
    return save(model, folder)


def write_thinker(folder: Path, thought: bytes, answer: bytes, *, opened: str = "") -> Path:
    """A checkpoint that thinks before it answers, between the control tokens of Mistral's models.

    Its template ends a prompt with `opened`, such as "[THINK]" for a thought that it opens itself.
    """
    # Existing tokens: BOS, and the name of a role.
    start, end = SYSTEM, BOS
    ids = [ASSISTANT, start, *ids_of(thought), end, *ids_of(answer), END]
    write_puppet(folder, {before: {after: 1.0} for before, after in itertools.pairwise(ids)})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        text = text.replace("<|system|>", "[THINK]").replace("<|bos|>", "[/THINK]")
        (folder / name).write_text(text.replace("<|assistant|>{% endif %}", f"<|assistant|>{opened}{{% endif %}}"))
    return folder
