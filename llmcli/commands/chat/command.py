"""`llm chat`: a conversation in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from llmcli.commands.shared import options, speculative
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.prompt_input import read_stdin, stdin_is_piped
from llmcli.commands.shared.sampling_options import NOT_GIVEN, SamplingOptions, with_sampling_flags
from llmcli.commands.shared.token_report import ReportOptions
from llmcli.errors import LlmcliError, UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.api import LoadedModel
    from llmcli.commands.chat.keyboard import Keyboard
    from llmcli.commands.chat.session import ChatModel, ChatSession
    from llmcli.conversations.live_conversation import LiveConversation
    from llmcli.conversations.records import SettingsRecord
    from llmcli.text.chat_template.template import ChatTemplate

_SAVED = "Conversations"

ContinueLatest: TypeAlias = Annotated[
    bool,
    typer.Option("--continue", "-c", rich_help_panel=_SAVED, help="Go on with the last conversation, or that of -m."),
]
Resume: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--resume", metavar="ID", rich_help_panel=_SAVED, help="Go on with this one; llm chats list shows them."
    ),
]
Save: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--save/--no-save", envvar="LLMCLI_SAVE", rich_help_panel=_SAVED, help="Keep the conversation on disk."
    ),
]


@with_sampling_flags
def chat(
    command: typer.Context,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="Texts that go along with your first message.")
    ] = None,
    model: options.Model = None,
    edit: options.Edit = None,
    continue_latest: ContinueLatest = False,
    resume: Resume = None,
    save: Save = True,
    system: options.System = None,
    strict_system: options.StrictSystem = False,
    template: options.TemplateName = None,
    template_arg: options.TemplateArg = None,
    sampling: SamplingOptions = NOT_GIVEN,
    no_thinking: options.NoThinking = False,
    context: options.Context = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    threads: options.Threads = None,
    draft: speculative.Draft = None,
    lookup: speculative.Lookup = None,
    draft_tokens: speculative.DraftTokens = "auto",
    probs: options.Probs = False,
    top: options.Top = 0,
    attention: options.Attention = False,
    attention_by: options.AttentionBy = "token",
    plain: Annotated[
        bool,
        typer.Option("--plain", envvar="LLMCLI_PLAIN", help="Show replies as they are written, not as Markdown."),
    ] = False,
    stats: options.ShowStats = False,
    encoding: options.Encoding = None,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Talk with a model, about FILEs if you like. Piped text is the first message; then the keyboard has the word."""
    variables = options.template_variables(template_arg)
    sampling.check()
    helped = speculative.Speculating(draft, lookup, draft_tokens)

    # Before what imports torch: that there is no such conversation must not take a second to say.
    path = _conversation(resume, continue_latest, model if _is_given(command, "model") else None)
    live = _live_conversation(path, save=save)
    before = None if path is None else live.tree.settings
    # What the command line says now holds from now on; otherwise it goes on as it was.
    if before is not None:
        model = model if _is_given(command, "model") else before.source
        system = system if _is_given(command, "system") else before.system
        template = template if _is_given(command, "template") else before.template
        variables = variables if _is_given(command, "template_arg") else dict(before.template_args)

    from llmcli.commands.chat.compose import send_along, text_of_file
    from llmcli.commands.chat.keyboard import Keyboard
    from llmcli.commands.chat.save_load import introduce
    from llmcli.commands.chat.session import ChatModel, ChatSession
    from llmcli.commands.chat.sighup import leaving_at_hangup

    texts = [(name, text_of_file(name)) for name in files or ()]
    helped.find()

    def load(name: str | None, template: str | None = None) -> ChatModel:
        loaded = load_model(
            find_checkpoint(name),
            device=device,
            dtype=dtype,
            quantize=quantize,
            threads=threads,
            template=template,
            context=context,
            edit=edit,
        )
        chat_template = _chat_template(loaded)

        from llmcli.engine import Conversation

        engine = helped.engine(loaded, context=context, threads=threads, device=device, dtype=dtype)
        conversation = Conversation(
            engine, loaded.tokenizer, chat_template, system,
            template_args=variables, strict_system=strict_system, no_thinking=no_thinking,
        )  # fmt: skip
        params = sampling.params(loaded.generation_defaults, loaded.tokenizer)
        return ChatModel(loaded, conversation, params, _source(name), _template(template), variables)

    with ExitStack() as stack:
        stack.callback(live.close)
        stack.enter_context(leaving_at_hangup())
        first = read_stdin() if stdin_is_piped() else ""
        keyboard = Keyboard(stack)
        report = ReportOptions(probs=probs, top=top, attention=attention, by=attention_by)
        session = ChatSession(load(model, template), live, report, keyboard, load, stats=stats, plain=plain)
        stack.callback(session.close)
        if path is not None:
            introduce(session)
        for name, text in texts:
            send_along(session, name, text)
        if first:
            session.reply_to(first)
        _converse(session, keyboard)


def _live_conversation(path: Path | None, *, save: bool) -> LiveConversation:
    """A new conversation, or the one in the file at `path`, with a word on what is damaged there."""
    from llmcli.conversations.live_conversation import LiveConversation

    if path is None:
        return LiveConversation(save=save, on_fault=terminal.error)
    live, damage = LiveConversation.resume(path, save=save, on_fault=terminal.error)
    if damage:
        terminal.error(damage)
    return live


def _chat_template(loaded: LoadedModel) -> ChatTemplate:
    """The model's chat template, without which or with a damaged one nothing can be said."""
    if loaded.template is None:
        raise UsageError(f"{loaded.name} has no chat template; llm generate continues text with it.")
    loaded.template.check()
    return loaded.template


def _converse(session: ChatSession, keyboard: Keyboard) -> None:
    """Answer what is typed until the user leaves."""
    from llmcli.commands.chat.completion import CommandCompleter
    from llmcli.commands.chat.slash_commands import Commands

    commands = Commands(session)
    limit = session.conversation.engine.context_length
    session.note(f"{session.loaded.name}, {limit} tokens of context. /help lists the commands.")
    messages = keyboard.messages(CommandCompleter(commands.table), session.toolbar)
    session.run(messages, commands.obey)


def _is_given(command: typer.Context, name: str) -> bool:
    """Whether the command line itself says it, rather than a variable or the settings file."""
    source = command.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _template(name: str | None) -> str | None:
    """What the chat template is called wherever the next chat is started."""
    from llmcli.checkpoint.chat_template_file import is_template_file

    if not name or not is_template_file(name):
        return name
    path = Path(name).expanduser()
    # What a pipe leads to has no name.
    return str(path.resolve() if path.is_file() else path.absolute())


def _conversation(resume: str | None, continue_latest: bool, model: str | None) -> Path | None:
    """The file of the conversation to go on with: the one named, or the last one, or the last with `model`.

    Raises:
        UsageError: there is none.
    """
    from llmcli.conversations.store import conversation_files, find_conversation

    if resume is not None:
        return find_conversation(resume)
    if not continue_latest:
        return None
    paths = conversation_files()
    if model is None and paths:
        return paths[0]
    for path, settings in _settings_of(paths):
        if model is not None and (settings.source == _source(model) or settings.model == model):
            return path
    raise UsageError(f"There is no conversation{f' with {model}' if model else ''} to go on with.")


def _settings_of(paths: list[Path]) -> Iterator[tuple[Path, SettingsRecord]]:
    from llmcli.conversations.store import read_conversation

    for path in paths:
        try:
            settings = read_conversation(path)[0].settings
        except LlmcliError:
            continue  # a damaged one is none that could be gone on with
        if settings is not None:
            yield path, settings


def _source(name: str | None) -> str | None:
    """What the model is called wherever the next chat is started."""
    return str(Path(name).expanduser().resolve()) if name and Path(name).expanduser().exists() else name
