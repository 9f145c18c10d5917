"""The score of a text that a command asks for."""

from __future__ import annotations

from collections.abc import Callable

from llmcli.inspection.evaluation.perplexity import score
from llmcli.inspection.evaluation.text_score import TextScore
from llmcli.loaded_model import LoadedModel
from llmcli.server.wire import ScoredText
from llmcli.text.chat.text_ids import text_ids


def score_text(loaded: LoadedModel, asked: ScoredText, progress: Callable[[int, int], None]) -> TextScore:
    """Encode a text and score its tokens; the errors are those of `text_ids` and `score`."""
    ids = text_ids(loaded.tokenizer, loaded.template, asked.text, chat=asked.chat, model=loaded.name)
    return score(loaded, ids, top=asked.top, window=asked.window, readable=asked.readable, progress=progress)
