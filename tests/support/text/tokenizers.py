"""Small tokenizers trained in the test run, and the files that would hold them."""

from __future__ import annotations

import functools
import io
import json
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from llmcli.text.tokenizer import Tokenizer
from llmcli.text.vocab.load import tokenizer_from_gguf, tokenizer_from_json

SPECIALS = ["<|begin|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog's 12 friends don't care, they're asleep!",
    "def main(argv):\n    return sum(int(a) for a in argv[1:])  # <|im_start|> <think> is text\n",
    "naïve café, 你好世界, 😀 👩‍👩‍👧, e\u0301, ﬁ, Ω, 100 %\n\n\ttabs  and   runs    of spaces",
    "<s>system user assistant</s> im_start im_end | < > <| |> think /think",
] * 3
TEXTS = [
    "",
    " ",
    "Hello world",
    " leading and trailing ",
    "two  spaces,   three",
    "def f(x):\n\n    return x  # 12345",
    "naïve café 你好世界 😀👩‍👩‍👧 e\u0301",
    "\n\n\t\r\n",
    "don't they're I'LL",
    "unseen: žluťoučký кот ﷽ 𝔘",
]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level_backend(pre_tokenizer: pre_tokenizers.PreTokenizer | None = None) -> Backend:
    """Byte-level BPE as GPT-2, Llama 3 and Qwen have it; BOS comes from the post-processor."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    backend.post_processor = processors.TemplateProcessing(
        single=["<|begin|>", "$A"], special_tokens=[("<|begin|>", 0)]
    )
    return backend


def metaspace_backend() -> Backend:
    """A SentencePiece vocabulary in the form older converters wrote."""
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", *SPECIALS], show_progress=False)
    )
    return backend


@functools.cache
def sentencepiece_model(prefix: bool = True) -> Any:
    """A BPE model trained by the reference implementation."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(line for text in CORPUS for line in text.split("\n")),
        model_writer=written,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        character_coverage=0.98,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        control_symbols=["<|im_start|>", "<|im_end|>"],
        user_defined_symbols=["<think>", "▁▁", "▁▁▁"],
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def gguf_of_sentencepiece(prefix: bool = True) -> dict[str, object]:
    """The metadata a converter writes for `sentencepiece_model`."""
    model = sentencepiece_model(prefix)
    ids = range(model.get_piece_size())
    kinds = {2: model.is_unknown, 3: model.is_control, 5: model.is_unused, 6: model.is_byte}
    types = [next((kind for kind, holds in kinds.items() if holds(index)), 1) for index in ids]
    tokens = [model.id_to_piece(index) for index in ids]
    for index in ids:
        if tokens[index] in ("<think>", "▁▁", "▁▁▁"):
            types[index] = 4
            tokens[index] = tokens[index].replace("▁", " ")
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [model.get_score(index) for index in ids],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def gguf_of_byte_level(backend: Backend, pre: str) -> dict[str, object]:
    """The metadata a converter writes for a byte-level tokenizer."""
    data = json.loads(backend.to_str())
    added = {token["id"]: 3 if token["special"] else 4 for token in data["added_tokens"]}
    size = backend.get_vocab_size()
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [backend.id_to_token(index) for index in range(size)],
        "tokenizer.ggml.token_type": [added.get(index, 1) for index in range(size)],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in data["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": backend.token_to_id("<|begin|>"),
        "tokenizer.ggml.eos_token_id": backend.token_to_id("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": True,
    }


def gguf_of_gemma4(**changes: object) -> dict[str, object]:
    """A vocabulary of single characters, bytes, and what the merges make of them."""
    merges = ["▁ t", "h e", "▁t he", "\n \n", "\n\n \n", "\n \n\n", "▁ ▁", "▁▁ ▁▁", "e ."]
    merged = list(dict.fromkeys(line.replace(" ", "") for line in merges))
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<|channel>", "<channel|>", "<|turn>", "<turn|>"]
    tokens = [*marks, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁\nthe.", *merged]
    types = [*[3] * 4, *[4] * 2, *[3] * 2, *[6] * 256, *[1] * (len(tokens) - 264)]
    return {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": False,
        **changes,
    }


def wrapped(backend: Backend) -> Tokenizer:
    """Our tokenizer over a library tokenizer."""
    config = {"bos_token": "<|begin|>", "eos_token": {"content": "<|im_end|>"}}
    return tokenizer_from_json(backend.to_str(), source="tokenizer.json", tokenizer_config=config)


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    """One of each kind: `byte`, `metaspace`, `sentencepiece` (with space prefix), `gemma` (without)."""
    if kind == "byte":
        return wrapped(byte_level_backend())
    if kind == "metaspace":
        return wrapped(metaspace_backend())
    return tokenizer_from_gguf(gguf_of_sentencepiece(kind == "sentencepiece"), source="model.gguf")


KINDS = ["byte", "metaspace", "sentencepiece", "gemma"]
