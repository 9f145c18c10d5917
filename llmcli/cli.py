"""The command line: registers all commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import atexit
import contextlib
import copy
import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer
from typer.models import TyperInfo

from llmcli import __version__
from llmcli.commands import alias, prompt
from llmcli.commands.batch.command import batch
from llmcli.commands.bench.command import bench
from llmcli.commands.chat.command import chat
from llmcli.commands.compare import compare
from llmcli.commands.config import config
from llmcli.commands.doctor import doctor
from llmcli.commands.edit import app as edit_app
from llmcli.commands.generate.command import generate
from llmcli.commands.help import help_
from llmcli.commands.inspect import COMMANDS as INSPECT_COMMANDS
from llmcli.commands.inspect import app as inspect_app
from llmcli.commands.list_models import list_models
from llmcli.commands.page import page
from llmcli.commands.pull import pull
from llmcli.commands.remove import remove
from llmcli.commands.replay import replay
from llmcli.commands.saved.chats import app as chats_app
from llmcli.commands.saved.log import app as log_app
from llmcli.commands.saved.stats import stats
from llmcli.commands.score import score
from llmcli.commands.serve.command import serve
from llmcli.commands.serve.ps import ps
from llmcli.commands.serve.stop import stop
from llmcli.commands.shared.options.flags import CommandWithOtherSpellings, only, with_options
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.settings_file import CommandsWithSettings, default_map
from llmcli.commands.shared.usage_errors import AdvisingGroup
from llmcli.commands.show import show
from llmcli.commands.trace import trace
from llmcli.errors import LlmcliError
from llmcli.views.terminal import terminal

INTERRUPTED, CLOSED_PIPE, TERMINATED = 130, 141, 143
_terminated = False
"""Whether SIGTERM came."""
# Commands whose model can be split over ranks.
_SPLIT = {"batch", "chat", "generate", "score", "serve"}
_NO_MEMORY = "There is not enough memory. Use a shorter text or --context, --quantize int4, or a smaller model."

app = typer.Typer(
    name="llm",
    cls=AdvisingGroup,
    help="Run open-weight language models in a terminal, and see what they are doing while they do it.",
    epilog="Try: llm generate 'What is the capital of France?'. llm help lists the manual.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_RUN, _MODELS, _LOOK, _TOOLS = "Run", "Models", "Look inside", "Tools"
# A blank line ends a line of the epilog.
_VARIABLES = (
    "A model's own sampling settings replace the defaults above. Most options can also be set by a variable, as "
    "LLMCLI_MAX_TOKENS for --max-tokens, or in config.toml; llm config shows the values in effect. llm help and the "
    "name of an option, as in llm help --top-k, describes it in full."
)
_GENERATE = (
    "llm generate 'What is the capital of France?'\n\n"
    "git diff | llm generate 'Write a commit message' --temperature 0\n\n"
    "llm generate 'Is the sky blue?' --choices yes,no --top 5\n\n"
    "llm generate --file notes.txt 'What is missing?' --log && llm generate --continue 'Why?'\n\n"
)
_BATCH = "llm batch prompts.jsonl --out results.jsonl\n\nllm batch - --max-tokens 100 < prompts.jsonl\n\n"
_CHAT = "llm chat --system 'Be brief.'\n\nllm chat notes.txt --model owner/name\n\nllm chat --continue\n\n"
_SERVE = "llm serve\n\nllm serve owner/name --port 8080 --keep forever\n\n"

app.command("generate", cls=CommandWithOtherSpellings, epilog=_GENERATE + _VARIABLES, rich_help_panel=_RUN)(generate)
app.command("chat", cls=CommandWithOtherSpellings, epilog=_CHAT + _VARIABLES, rich_help_panel=_RUN)(chat)
app.command("batch", cls=CommandWithOtherSpellings, epilog=_BATCH + _VARIABLES, rich_help_panel=_RUN)(batch)
app.command("serve", epilog=_SERVE + _VARIABLES, rich_help_panel=_RUN)(serve)
app.command("ps", rich_help_panel=_RUN)(ps)
app.command("stop", rich_help_panel=_RUN)(stop)
app.add_typer(chats_app, rich_help_panel=_RUN)
app.add_typer(log_app, rich_help_panel=_RUN)
app.command("pull", rich_help_panel=_MODELS)(pull)
app.command("list", rich_help_panel=_MODELS)(list_models)
app.command("show", rich_help_panel=_MODELS)(show)
app.command("rm", rich_help_panel=_MODELS)(remove)
app.add_typer(alias.app, rich_help_panel=_MODELS)
app.command("score", rich_help_panel=_LOOK)(score)
app.command("compare", rich_help_panel=_LOOK)(compare)
app.command("trace", rich_help_panel=_LOOK)(trace)
app.add_typer(inspect_app, rich_help_panel=_LOOK)
app.add_typer(edit_app, rich_help_panel=_LOOK)
app.command("page", rich_help_panel=_TOOLS)(page)
app.command("replay", rich_help_panel=_TOOLS)(replay)
app.command("bench", rich_help_panel=_TOOLS)(bench)
app.add_typer(prompt.app, rich_help_panel=_TOOLS)
# Its former name.
app.add_typer(prompt.app, name="template", hidden=True)
app.command("stats", rich_help_panel=_TOOLS)(stats)
app.command("doctor", rich_help_panel=_TOOLS)(doctor)
# Their arguments can be another command's flags.
app.command("help", context_settings={"ignore_unknown_options": True}, rich_help_panel=_TOOLS)(help_)
app.command("config", context_settings={"ignore_unknown_options": True}, rich_help_panel=_TOOLS)(config)

_WITH_SETTINGS = CommandsWithSettings((generate, batch, chat, score, serve, bench), INSPECT_COMMANDS)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"llmcli {__version__}")
        raise typer.Exit


@app.callback()
@with_options
def _common(
    context: typer.Context,
    *,
    _terminal_options: Annotated[TerminalOptions, only("color")],
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    terminal.set_quiet(False)
    context.obj = _WITH_SETTINGS
    # A damaged settings file must not block the manual, and `llm doctor` reports what is wrong with it.
    if context.invoked_subcommand not in ("doctor", "help"):
        context.default_map = default_map(_WITH_SETTINGS)


def main() -> NoReturn:
    """Run the program and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    _open_closed_streams()
    terminal.prepare()
    # The tokenizers library needs no threads, because one text is encoded at a time.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    code = _run()
    try:
        # Flush here, not at interpreter exit, so that a failed write changes the exit code.
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # After an earlier error, keep its code: its message has been written.
        code = code or _report_os_error(error)
    if code == CLOSED_PIPE or code == 1:
        _drop_stdout()
    sys.exit(code)


def run() -> NoReturn:
    """Run `main` and end the process without interpreter shutdown, which takes up to 0.5 s with torch."""
    # Block the import of NumPy by torch, which does not need it here: saves 10 MB and 0.05 s where it is installed.
    sys.modules.setdefault("numpy", None)  # type: ignore[arg-type]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else code
    # All output is written: from here on Ctrl-C must not print a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(code)


def _needed(asked: list[str]) -> typer.Typer:
    """The app with only the requested command, because building all commands takes 0.05 s."""
    names = asked[:1]
    if names == ["help"] and len(asked) > 1:
        # `llm help COMMAND` shows the flags of another command.
        return app
    if names == ["config"]:
        # `llm config COMMAND` shows the settings of another command, by default `generate`.
        names = ["config", *(asked[1:2] or ["generate"])]
    commands = [command for command in app.registered_commands if command.name in names]
    groups: list[TyperInfo] = []
    if not commands or len(commands) < len(names):
        commands, groups = [], _group_with(asked[:2])
        if not groups:
            return app
    needed = copy.copy(app)
    needed.registered_commands, needed.registered_groups = commands, groups
    return needed


def _group_with(names: list[str]) -> list[TyperInfo]:
    """The command group `names[0]` with only its command `names[1]`; empty if there is no such command."""
    for group in app.registered_groups:
        whole = group.typer_instance
        if whole is None or names[:1] not in ([whole.info.name], [group.name]):
            continue
        commands = [command for command in whole.registered_commands if [command.name] == names[1:]]
        if commands:
            one, group = copy.copy(whole), copy.copy(group)
            one.registered_commands, one.registered_groups = commands, []
            group.typer_instance = one
            return [group]
    return []


def _run() -> int:
    try:
        if os.environ.get("WORLD_SIZE") and _SPLIT.intersection(sys.argv[1:2]) and _is_follower():
            from llmcli.distributed.worker import main as follow

            return follow()
        _needed(sys.argv[1:])()
    except SystemExit as error:
        # Typer itself turns a closed pipe into exit code 1.
        if isinstance(error.__context__, OSError) and error.__context__.errno == errno.EPIPE:
            return CLOSED_PIPE
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except LlmcliError as error:
        return _report(str(error), error.exit_code)
    except MemoryError:
        return _report(_NO_MEMORY, 5)
    except OSError as error:
        return _report(_NO_MEMORY, 5) if error.errno == errno.ENOMEM else _report_os_error(error)
    except Exception as error:
        # Compiled code, as in the import of torch, can turn the exception of `_terminate` into another one.
        return TERMINATED if _terminated else _report_unexpected(error)
    return 0


def _is_follower() -> bool:
    """Whether a launcher has started this process as a rank other than 0, which has no part in the command."""
    from llmcli.distributed.environment import is_follower

    return is_follower(os.environ)


def _report(message: str, code: int) -> int:
    if os.environ.get("LLMCLI_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    terminal.error(message)
    return code


def _report_os_error(error: OSError) -> int:
    if error.errno == errno.EPIPE:
        return CLOSED_PIPE
    where = f" ({error.filename})" if error.filename else ""
    return _report(f"{error.strerror or error}{where}.", 1)


def _report_unexpected(error: Exception) -> int:
    # Only if a command has imported torch can the error be one of torch.
    if "torch" in sys.modules:
        from llmcli.device import is_out_of_memory

        if is_out_of_memory(error):
            return _report(_NO_MEMORY, 5)
    # Print only type and place: the text of an unknown error could quote a prompt or a secret.
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""  # noqa: PTH119
    return _report(
        f"This is a bug in llmcli {__version__}: {type(error).__name__}{place}. "
        "Run again with LLMCLI_DEBUG=1 to see the traceback, and please report it.",
        1,
    )


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    global _terminated
    _terminated = True
    # An exception, not an exit: temporary files are removed and the terminal is restored on the way out.
    raise SystemExit(TERMINATED)


class _Closed(io.RawIOBase):
    """Replacement for a closed standard output: every write is an error."""

    def writable(self) -> bool:
        """True, so that writes reach `write`."""
        return True

    def write(self, data: object, /) -> int:
        """Raise `OSError`."""
        raise OSError(errno.EBADF, "Standard output is closed")


def _open_closed_streams() -> None:
    """Open closed standard streams on /dev/null, so that no file opened later gets descriptor 0, 1 or 2."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # noqa: PERF203
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Closed()), encoding="utf-8")


def _drop_stdout() -> None:
    """Discard unwritten output, which the interpreter would otherwise try to write again at exit, with an error."""
    if sys.stdout is None:
        return
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
