"""Prepare a run for a checked request: load the model, build the prompt, and make an engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcli.commands.generate.fill_in import with_fill_in_stops
from llmcli.commands.generate.request import CheckedRequest
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.prompt import reply_prompt
from llmcli.commands.shared.token_report import check_report
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.commands.generate.options import GenerateOptions
    from llmcli.commands.generate.saving import SavedRun
    from llmcli.engine import Engine, SamplingParams
    from llmcli.loaded_model import LoadedModel
    from llmcli.text.chat.prompt import ChatPrompt
    from llmcli.text.chat.reply_prompt import ReplyPrompt
    from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Run:
    """Everything needed to generate a reply."""

    request: CheckedRequest
    checkpoint: Checkpoint
    loaded: LoadedModel
    prompt: ReplyPrompt
    built: ChatPrompt
    """The prompt as tokens."""
    engine: Engine
    params: SamplingParams
    saved: SavedRun
    """The conversation that the run continues and is kept in, if any."""
    sample: int | None = None
    """With --samples: the number of the reply, from 0."""

    @property
    def stop_ids(self) -> Collection[int]:
        """Ids of the tokens that end the reply."""
        loaded = self.loaded
        return (loaded.stop_ids if self.prompt.is_chat else loaded.declared_stop_ids).keys()

    @property
    def options(self) -> GenerateOptions:
        """The options of the request."""
        return self.request.options


def prepare(request: CheckedRequest, saved: SavedRun) -> Run:
    """Load the model, build the prompt, write its notes to stderr, and make an engine.

    Raises:
        LlmcliError: the model cannot be loaded, or the request does not suit it.
    """
    options = request.options
    checkpoint = find_checkpoint(options.model.model)
    if not request.answers:
        request.speculator.find()
    computing = replace(options.model, readable=options.choice.readable and bool(request.answers))
    loaded = load_model(checkpoint, computing, template=options.prompt.chat_template)
    loaded, prompt = _prompt(request, loaded, saved)
    built = prompt.built(options.prompt.prefill)
    for note in built.notes:
        terminal.note(note)
    engine = request.speculator.engine(loaded, options.model, chat=prompt.is_chat)
    if prompt.control_tokens:
        _note_control_tokens(loaded.tokenizer, request.text + options.prompt.prefill)
    if options.output.show_prompt:
        _show_prompt(loaded.tokenizer, built.ids)
    params = options.sampling.params(loaded.generation_defaults, loaded.tokenizer)
    if not request.answers:
        check_report(options.report, is_chat=bool(prompt.messages))
    return Run(request, checkpoint, loaded, prompt, built, engine, params, saved)


def _prompt(request: CheckedRequest, loaded: LoadedModel, saved: SavedRun) -> tuple[LoadedModel, ReplyPrompt]:
    """Make the prompt, with the conversation before it.

    With --fill-in, the model also gets the stop tokens of its fill-in format.
    """
    asked, gap = request.options.prompt, None
    if asked.fill_in is not None:
        loaded, gap = with_fill_in_stops(loaded)
    before = saved.messages(loaded) if saved.is_continued else ()
    prompt = reply_prompt(loaded, request.text, asked, request.variables, before=before)
    if asked.fill_in is not None and gap is not None:
        prompt = replace(prompt, gap=(gap, asked.fill_in[1]))
    return loaded, prompt


def _note_control_tokens(tokenizer: Tokenizer, text: str) -> None:
    """Note which control tokens the text of a prompt contains, and how often."""
    ids = tokenizer.encode(text, add_special_tokens=False, control_tokens=True)
    found = Counter(tokenizer.piece(token) for token in ids if tokenizer.is_guarded(token))
    counted = ", ".join(piece if count == 1 else f"{piece} ({count} times)" for piece, count in found.items())
    terminal.note(f"Control tokens in the prompt: {counted or 'none'}.")


def _show_prompt(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    from llmcli.views.reply.prompt_tokens import prompt_token_table

    rows = [(token, tokenizer.token_bytes(token), tokenizer.is_guarded(token)) for token in ids]
    terminal.console_err().print(prompt_token_table(rows))
