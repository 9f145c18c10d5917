"""Prepare a run for a checked request: load the model, encode the prompt, and make an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from llmcli.commands.generate.request import CheckedRequest
from llmcli.commands.shared.server import check_no_server_named, server_for
from llmcli.commands.shared.token_report import check_report
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcli.commands.generate.options import GenerateOptions
    from llmcli.commands.generate.saving import SavedRun
    from llmcli.commands.generate.source import BegunSource, LocalReply, ReplySource
    from llmcli.engine import SamplingParams
    from llmcli.server.wire import GenerateRequest, ReplyBegin
    from llmcli.text.chat.messages import Message

_Source = TypeVar("_Source")


@dataclass(frozen=True)
class Run:
    """A request whose prompt is encoded, and what is needed to answer it and to show the answer."""

    request: CheckedRequest
    source: BegunSource
    saved: SavedRun
    """The conversation that the run continues and is kept in, if any."""

    @property
    def begin(self) -> ReplyBegin:
        """What is known before the reply begins."""
        return self.source.begin

    @cached_property
    def params(self) -> SamplingParams:
        """The settings in effect."""
        from llmcli.engine.sampling.params import params_from_json

        return params_from_json(self.begin.params)

    @property
    def options(self) -> GenerateOptions:
        """The options of the request."""
        return self.request.options


@dataclass(frozen=True)
class ReplyRun(Run):
    """A run that generates a reply."""

    source: ReplySource
    sample: int | None = None
    """With --samples: the number of the reply, from 0."""


@contextmanager
def prepared(request: CheckedRequest, saved: SavedRun) -> Iterator[ReplyRun]:
    """Prepare a reply, and write the notes on its prompt to stderr.

    Raises:
        LlmcliError: the model cannot be loaded, or the request does not suit it.
    """
    run = ReplyRun(request, _served(request, saved) or prepare_local(request, saved), saved)
    with closing(run.source):
        tell_begin(run.begin)
        check_report(request.options.report, is_chat=run.begin.is_chat)
        yield run


def _served(request: CheckedRequest, saved: SavedRun) -> ReplySource | None:
    """The reply of a running server that holds the model; None if there is none.

    Raises:
        LlmcliError: the request does not suit the model.
    """
    options = request.options
    # A draft model changes the texts that are drawn, and so can a lookup that is asked for.
    if options.speculation.draft is not None or options.speculation.lookup:
        check_no_server_named(options.model, "--lookup" if options.speculation.draft is None else "--draft")
        return None
    server = server_for(options.model, template=options.prompt.chat_template)
    if server is None:
        return None
    from llmcli.client.reply import ServedReply

    before = saved.messages(server.model, server.vocab_size) if saved.is_continued else ()
    return unless_gone(lambda: ServedReply(server, asked(request, before, saved=saved.is_kept), terminal.note))


def unless_gone(make: Callable[[], _Source]) -> _Source | None:
    """What `make` returns; None, with a note, if the server takes no more requests."""
    from llmcli.client.connection import NoServerError

    try:
        return make()
    except NoServerError as error:
        terminal.note(f"{error} The model is loaded in this process.")
        return None


def prepare_local(request: CheckedRequest, saved: SavedRun) -> LocalReply:
    """Load the model in this process, encode the prompt and make an engine.

    Raises:
        LlmcliError: the model cannot be loaded, or the request does not suit it.
    """
    from llmcli.commands.generate.source import LocalReply
    from llmcli.commands.shared.load_model import find_checkpoint, load_model

    options = request.options
    checkpoint = find_checkpoint(options.model.model)
    if not request.answers:
        request.speculator.find()
    computing = replace(options.model, readable=options.choice.readable and bool(request.answers))
    loaded = load_model(checkpoint, computing, template=options.prompt.chat_template)
    if options.prompt.fill_in is not None:
        from llmcli.commands.generate.fill_in import with_fill_in_stops

        loaded = with_fill_in_stops(loaded)
    before = saved.messages(loaded.name, loaded.tokenizer.vocab_size) if saved.is_continued else ()
    is_chat = loaded.template is not None and not options.prompt.raw
    engine = request.speculator.engine(loaded, options.model, chat=is_chat)
    return LocalReply(loaded, engine, checkpoint, asked(request, before, saved=saved.is_kept))


def asked(request: CheckedRequest, before: Sequence[Message], *, saved: bool) -> GenerateRequest:
    """The reply to generate after the messages `before`."""
    from llmcli.server.wire import GenerateRequest

    options = request.options
    report, output = options.report, options.output
    # Output that contains each token's probability even without --probs.
    contains = output.as_json or output.as_jsonl or output.wants_page or any((output.svg, output.record))
    return GenerateRequest(
        options.prompt.request(request.text, request.variables, before=before),
        options.sampling.settings(),
        tuple(options.sampling.logit_bias or ()),
        request.rule,
        probabilities=report.probs or report.top > 0 or contains,
        top=request.recorder.candidates(options.candidates),
        attention_by=report.attention_by if report.attention else None,
        context=options.model.context,
        show_prompt=output.show_prompt,
        record=output.record is not None,
        saved=saved,
    )


def tell_begin(begin: ReplyBegin) -> None:
    """Write the notes on a prompt to stderr, and with --show-prompt its tokens."""
    for note in begin.notes:
        terminal.note(note)
    if begin.prompt_pieces is not None:
        from llmcli.views.reply.prompt_tokens import prompt_token_table

        pairs = zip(begin.prompt_ids, begin.prompt_pieces, strict=True)
        rows = [(token, text.encode("latin-1"), guarded) for token, (text, guarded) in pairs]
        terminal.console_err().print(prompt_token_table(rows))
