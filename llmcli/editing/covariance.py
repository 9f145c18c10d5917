"""Key statistics: the uncentered second moment of the inputs of a feed-forward network's output projection.

An update along `C^-1 k` has the least effect on the keys of ordinary text (Meng et al. 2022, section 3.1). The training
text is usually not available, so the model generates text itself: a random first word, then sampling at temperature 1.
Texts and moments are cached in the platform's cache directory, by the hash of the model's weights.

Dimension letters: B texts, T tokens, I neurons of a network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, TensorSpec, safe_open, serialize
from torch import Tensor

from llmcli.editing.mlp_keys import TOKENS_AT_ONCE, network_of, padded, read_keys
from llmcli.engine.batch.batch import Request
from llmcli.engine.sampling.params import SamplingParams
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import replace_bytes, replace_text
from llmcli.loaded_model import LoadedModel
from llmcli.paths import cache_folder

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (description, amount done, total)."""

GENERATING, COMPUTING = "Generating text for key statistics", "Computing key statistics"
"""Descriptions of the two parts of the work."""
TEXTS, TEXT_TOKENS = 64, 96
_LEAST_TOKENS = 256


class Statistics:
    """The second moments of one model, computed on first use and cached on disk."""

    def __init__(
        self,
        loaded: LoadedModel,
        model_sha256: str,
        corpus: str | None = None,
        progress: Progress | None = None,
        *,
        texts: int = TEXTS,
    ) -> None:
        """Use the text `corpus`, or else `texts` texts that the model generates itself.

        Raises:
            UsageError: the corpus is too short.
        """
        self._loaded, self._tell = loaded, progress or (lambda what, done, total: None)
        self._count = texts
        self._corpus = None if corpus is None else _cut(loaded, corpus)
        name = f"own-{texts}" if corpus is None else hashlib.sha256(corpus.encode(errors="replace")).hexdigest()[:16]
        self._folder = statistics_folder() / model_sha256[:16]
        self._name = name

    def work(self, layers: Sequence[int]) -> list[str]:
        """The parts of the work that `second_moments` has to do, because their results are not cached."""
        missing = any(self._kept(layer) is None for layer in layers)
        generates = missing and self._corpus is None and self._kept_texts() is None
        return [GENERATING] * generates + [COMPUTING] * missing

    def texts(self) -> list[list[int]]:
        """Token ids of the texts that the statistics are computed from."""
        if self._corpus is not None:
            return self._corpus
        found = self._kept_texts()
        if found is None:
            found = _own_texts(self._loaded, self._count, self._tell)
            with suppress(OSError):
                replace_text(self._texts_file, json.dumps(found))
        return found

    def second_moments(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """For each block in `layers`, the mean of k k^T over all keys k: (I, I), float32."""
        found = {layer: moment for layer in layers if (moment := self._kept(layer)) is not None}
        missing = [layer for layer in layers if layer not in found]
        if missing:
            for layer, moment in second_moments(self._loaded, missing, self.texts(), self._tell).items():
                found[layer] = moment
                with suppress(OSError):
                    replace_bytes(self._file(layer), _as_file(moment.cpu()))
        return found

    @property
    def _texts_file(self) -> Path:
        return self._folder / f"{self._name}.json"

    def _kept_texts(self) -> list[list[int]] | None:
        return _read_texts(self._texts_file, self._loaded.tokenizer.vocab_size)

    def _file(self, layer: int) -> Path:
        return self._folder / f"{self._name}-layer-{layer}.safetensors"

    def _kept(self, layer: int) -> Tensor | None:
        path = self._file(layer)
        size = network_of(self._loaded.model, layer).down_proj.in_features
        file: Any
        try:
            with safe_open(path, "pt", backend="pread") as file:
                moment: Tensor = file.get_tensor("moment")
        except (SafetensorError, OSError):
            return None
        if moment.shape != (size, size) or moment.dtype != torch.float32:
            return None
        return moment.to(self._loaded.model.device)


def statistics_folder() -> Path:
    """The cache directory of texts and moments; deleting it is safe, they are computed again."""
    return cache_folder() / "edit-statistics"


def second_moments(
    loaded: LoadedModel, layers: Sequence[int], texts: Sequence[Sequence[int]], tell: Progress | None = None
) -> dict[int, Tensor]:
    """For each block in `layers`, the mean of k k^T over the keys k of all tokens: (I, I), float32.

    The first token of a text is left out: models park attention there, so its key is an outlier.
    """
    model = loaded.model
    sums: dict[int, Tensor] = {}
    counted: Tensor = torch.empty(0)

    def add(layer: int, keys: Tensor) -> None:
        rows = keys[counted].float()
        sums[layer] = sums[layer].addmm_(rows.T, rows) if layer in sums else rows.T @ rows

    done = tokens = 0
    for some in _batches(texts):
        longest = max(map(len, some))
        lengths = torch.tensor([len(text) for text in some], device=model.device)
        places = torch.arange(longest, device=model.device)
        counted = (places > 0) & (places < lengths[:, None])  # (B, T)
        tokens += int(counted.sum())
        read_keys(model, layers, padded(some, model), add)
        done += len(some)
        if tell is not None:
            tell(COMPUTING, done, len(texts))
    return {layer: total.clone().div_(tokens) for layer, total in sums.items()}


def _batches(texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Batches of texts of about the same length."""
    waiting = sorted((text for text in texts if len(text) > 1), key=len)
    while waiting:
        count = max(1, TOKENS_AT_ONCE // len(waiting[-1]))
        yield waiting[-count:]
        del waiting[-count:]


def _own_texts(loaded: LoadedModel, count: int, tell: Progress) -> list[list[int]]:
    """Generate `count` texts, each from a random first word."""
    tokenizer = loaded.tokenizer
    words = [
        token
        for token in range(tokenizer.vocab_size)
        if tokenizer.token_text(token).strip().isalpha() and not tokenizer.is_added(token)
    ]
    if not words:
        raise UsageError("The model's vocabulary has no words to begin a text with; give a text with --corpus.")
    drawn = torch.randint(len(words), (count,), generator=torch.Generator().manual_seed(0)).tolist()
    start = tokenizer.encode("")
    begun = [[*start, words[index]] for index in drawn]
    length = min(TEXT_TOKENS, loaded.config.context_length - len(start) - 1)
    requests = (
        Request(tuple(ids), SamplingParams(temperature=1, top_k=0, top_p=1, seed=seed, max_tokens=length))
        for seed, ids in enumerate(begun)
    )

    def report(done: int, tokens: int) -> None:
        tell(GENERATING, done * length + tokens, count * length)

    texts = []
    for ids, reply in zip(begun, loaded.batch_engine().run(requests, progress=report), strict=True):
        if isinstance(reply, LlmcliError):
            raise reply
        # Re-encode the text, which leaves out stop tokens and incomplete characters.
        text = tokenizer.decode(ids[len(start) :]) + reply.text
        texts.append([*start, *tokenizer.encode(text, add_special_tokens=False)])
    return texts


def _cut(loaded: LoadedModel, corpus: str) -> list[list[int]]:
    """Split the corpus into pieces of token ids that fit the context, each with the tokenizer's BOS."""
    ids = loaded.tokenizer.encode(corpus, add_special_tokens=False)
    if len(ids) < _LEAST_TOKENS:
        raise UsageError(f"The corpus has {len(ids)} tokens; give at least {_LEAST_TOKENS}, better about ten thousand.")
    start = loaded.tokenizer.encode("")
    size = max(2, min(4 * TEXT_TOKENS, loaded.config.context_length) - len(start))
    return [[*start, *ids[first : first + size]] for first in range(0, len(ids), size)]


def _read_texts(path: Path, vocabulary: int) -> list[list[int]] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(found, list) and all(
        isinstance(text, list) and all(type(token) is int and 0 <= token < vocabulary for token in text)
        for text in found
    )
    return found if whole and found else None


def _as_file(moment: Tensor) -> bytes:
    """A (I, I) float32 tensor on the CPU as a safetensors file."""
    whole = moment.contiguous()
    spec = TensorSpec(dtype="float32", shape=whole.shape, data_ptr=whole.data_ptr(), data_len=whole.nbytes)
    return serialize({"moment": spec})
