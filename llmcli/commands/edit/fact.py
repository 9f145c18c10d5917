"""`llm edit PROMPT`: change a fact by a rank-one update (ROME), and test the edit."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from llmcli.commands.shared import output
from llmcli.commands.shared.load_model import find_checkpoint, load_model, read_edit_files
from llmcli.commands.shared.options.flags import OUTPUT, SAMPLING, flag, only, text, with_options
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import ViewOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.prompt_input import read_file_text
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

_FACT, _TESTS = "Fact", "Tests of the edit"


@dataclass(frozen=True)
class FactOptions:
    """The fact to change, and the texts that test the edit."""

    subject: Annotated[
        str,
        flag(
            "--subject",
            metavar="S",
            callback=text,
            env=False,
            panel=_FACT,
            help="What the fact is about, in the words of PROMPT.",
        ),
    ]
    target: Annotated[str, flag("--to", metavar="T", callback=text, env=False, panel=_FACT, help="The new answer.")]
    layer: Annotated[
        str,
        flag(
            "--layer",
            metavar="auto|N",
            env=False,
            panel=_FACT,
            help="The block to change, counted from 0. auto: try three and keep the best.",
        ),
    ] = "auto"
    corpus: Annotated[
        Path | None,
        flag(
            "--corpus",
            metavar="FILE",
            env=False,
            panel=_FACT,
            help="Text the edit should not affect. Default: text that the model writes.",
        ),
    ] = None
    paraphrase: Annotated[
        list[str] | None,
        flag(
            "--paraphrase",
            metavar="TEXT",
            callback=text,
            env=False,
            panel=_TESTS,
            help="Another text that the new answer should follow. Repeatable.",
        ),
    ] = None
    neighbor: Annotated[
        list[str] | None,
        flag(
            "--neighbor",
            metavar="TEXT",
            callback=text,
            env=False,
            panel=_TESTS,
            help="A text whose answer should stay the same. Repeatable.",
        ),
    ] = None
    ask: Annotated[
        list[str] | None,
        flag(
            "--ask",
            metavar="TEXT",
            callback=text,
            env=False,
            panel=_TESTS,
            help="Ask this in a chat before and after the edit. Repeatable.",
        ),
    ] = None

    def block(self) -> int | None:
        """The block to change; None for "auto", the best of three.

        Raises:
            UsageError: --layer is neither a number nor "auto".
        """
        if self.layer == "auto":
            return None
        with suppress(ValueError):
            return int(self.layer)
        raise UsageError(f'--layer {self.layer} is neither the number of a block nor "auto".')


@with_options
def fact(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", callback=text, help="A text that the answer completes.")],
    *,
    fact_options: FactOptions,
    model_options: Annotated[ModelOptions, only("model", "edit", "device", "dtype")],
    out: Annotated[
        Path | None,
        flag(
            "--out",
            "-o",
            metavar="FILE",
            env=False,
            panel=OUTPUT,
            help="Write the edit to this file. Default: in the data directory.",
        ),
    ] = None,
    force: Annotated[
        bool,
        flag("--force", env=False, panel=OUTPUT, help="Keep the edit, with exit code 0, even if it failed its tests."),
    ] = False,
    max_tokens: Annotated[
        int,
        flag(
            "--max-tokens",
            "-n",
            metavar="N",
            min=1,
            env=False,
            panel=SAMPLING,
            help="End the replies shown after N tokens.",
        ),
    ] = 24,
    view_options: ViewOptions,
    terminal_options: TerminalOptions,
) -> None:
    """Change a fact by a rank-one update of one block (ROME), and test the fact, its neighbors and other text.

    If the edit fails a test, nothing is kept and the exit code is 1.
    """
    number = fact_options.block()
    corpus = None if fact_options.corpus is None else read_file_text(fact_options.corpus)
    _check_writable(out)
    checkpoint = find_checkpoint(model_options.model)

    from llmcli.checkpoint.edits.edit_file import write_edit
    from llmcli.checkpoint.edits.store import new_edit_file
    from llmcli.checkpoint.file_hashes import weights_hash
    from llmcli.editing.edit_fact import Fact, check_editable, make_edit
    from llmcli.views.reports.edit import NOTE, SCHEMA, edit_view
    from llmcli.views.terminal.progress import progress_bar

    check_editable(checkpoint.config, checkpoint.name, number)
    over = read_edit_files(checkpoint, model_options.edit) if model_options.edit else ()
    with progress_bar() as progress:
        ours = weights_hash(checkpoint, lambda done, total: progress("Hashing the model's files", done, total))
    # Loaded without the earlier edits (`over`): `make_edit` applies them itself.
    loaded = load_model(checkpoint, replace(model_options, edit=None), precise=True)
    subject, target = fact_options.subject, fact_options.target
    tests = (fact_options.paraphrase, fact_options.neighbor, fact_options.ask)
    wanted = Fact(prompt, subject, target, *(tuple(texts or ()) for texts in tests))
    with progress_bar("Preparing the edit", unit="%") as progress:
        made, report = make_edit(
            loaded, ours, wanted, layer=number, corpus=corpus, over=over, reply_tokens=max_tokens, progress=progress
        )
    output.present(edit_view(report), schema=SCHEMA, value=report, output=view_options, note=NOTE, title="llm edit")
    if report.problems and not force:
        terminal.error("Nothing was kept; --force keeps the edit all the same.")
        raise typer.Exit(1)
    path = new_edit_file(subject, target) if out is None else out
    write_edit(path, made)
    terminal.note(f"Written to {path}. Use it with -e {path.stem if out is None else path}.")


def _check_writable(out: Path | None) -> None:
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UsageError(f"The edit cannot be written to {out}: give a file in a folder that exists.")
