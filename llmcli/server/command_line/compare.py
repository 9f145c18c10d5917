"""The parts of a comparison that a model of this process computes for a command in another one."""

from __future__ import annotations

from collections.abc import Callable, Generator

from llmcli.inspection.evaluation.comparison_side import LocalComparison, SideFacts, begun, row_bytes
from llmcli.loaded_model import LoadedModel
from llmcli.server.command_line.reply import check_ids
from llmcli.server.scheduler.work import Deliver, Piece, ReadSoFar
from llmcli.server.wire import ContinuedText, PredictedText
from llmcli.text.chat.text_ids import text_ids


def prompt_ids(loaded: LoadedModel, asked: ContinuedText) -> list[int]:
    """Encode the prompt of a comparison: with `answer`, as a message if the model has a chat template.

    Raises:
        UsageError: the model has no chat template, or an id of the request is no token of it.
    """
    if asked.ids is not None:
        check_ids(loaded, asked.ids)
        return list(asked.ids)
    as_message = asked.chat or (asked.answer and loaded.template is not None)
    return text_ids(loaded.tokenizer, loaded.template, asked.text, chat=as_message, model=loaded.name)


def prompt_of(loaded: LoadedModel, asked: ContinuedText) -> SideFacts:
    """Encode the prompt of a comparison, and describe the model."""
    return begun(loaded, prompt_ids(loaded, asked))


def predictions(loaded: LoadedModel, asked: PredictedText, deliver: Deliver) -> Generator[None, None, str]:
    """Deliver the prediction of each token with its log-probabilities, and return the name of the step.

    Raises:
        UsageError: an id of the request is no token of the model, or there are too few.
    """
    check_ids(loaded, asked.ids)
    model = LocalComparison(loaded)

    def tell(done: int, total: int) -> None:
        # The rows tell the rest.
        if done <= asked.start:
            deliver([ReadSoFar(done, total)])

    for expected, row in model.read(asked.ids, start=asked.start, window=asked.window, tell=tell):
        deliver([Piece(expected, row_bytes(row))])
        yield
    return model.path


def progress_to(deliver: Deliver) -> Callable[[int, int], None]:
    """Deliver how many tokens are done."""
    return lambda done, total: deliver([ReadSoFar(done, total)])
