"""Keep the replies of a run in its conversation, as they are generated."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING

from llmcli.commands.shared.continued import template_source

if TYPE_CHECKING:
    from llmcli.commands.generate.prepare import ReplyRun, Run
    from llmcli.conversations.live_conversation import ReplyRecorder
    from llmcli.engine import Event


def recording(run: ReplyRun, events: Iterable[Event]) -> Generator[Event, None, None]:
    """The events of a reply, kept as far as they are read; a reply not read to its end counts as interrupted.

    The question is kept at the call.
    """
    recorder = _recorder(run)
    return (event for event in events) if recorder is None else _recorded(run, events, recorder)


def keep(run: Run, text: str) -> None:
    """Keep a reply that was not generated token by token."""
    recorder = _recorder(run)
    if recorder is not None:
        recorder.add(text)
        recorder.end("stop")


def _recorder(run: Run) -> ReplyRecorder | None:
    if not run.saved.is_kept:
        return None
    from llmcli.conversations.records import SettingsRecord, model_source

    asked = run.options.prompt
    settings = SettingsRecord(
        run.begin.model,
        model_source(run.options.model.model),
        asked.system,
        template_source(asked.chat_template),
        dict(run.request.variables),
        raw=not run.begin.is_chat,
    )
    recorder = run.saved.recorder(settings, run.request.text, run.params)
    recorder.prompt_tokens = len(run.begin.prompt_ids)
    return recorder


def _recorded(run: ReplyRun, events: Iterable[Event], recorder: ReplyRecorder) -> Generator[Event, None, None]:
    from llmcli.engine import Finish, Step

    begun, reason = run.begin.begun_ids, "interrupted"
    recorder.add(run.begin.given, begun or ())
    try:
        for event in events:
            if isinstance(event, Step):
                recorder.add(run.source.raw_text, () if begun is None else (event.id,))
            elif isinstance(event, Finish):
                recorder.add(run.source.raw_text)
                reason = event.reason
            yield event
    finally:
        recorder.end(reason)
