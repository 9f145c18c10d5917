"""`llm edit PROMPT`: change a fact, and prove what was changed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from llmcli.commands.shared import options, output
from llmcli.commands.shared.load_model import find_checkpoint, load_model, read_edit_files
from llmcli.commands.shared.prompt_input import read_file_text
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal


def fact(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", callback=options.text, help="A text that the fact's answer completes.")
    ],
    subject: Annotated[
        str,
        typer.Option(
            "--subject",
            metavar="S",
            callback=options.text,
            help="Whom or what the fact is about, as it stands in PROMPT.",
        ),
    ],
    target: Annotated[str, typer.Option("--to", metavar="T", callback=options.text, help="The new answer.")],
    model: options.Model = None,
    layer: Annotated[
        str, typer.Option("--layer", metavar="auto|N", help="The block to change. auto: the best of three, by trial.")
    ] = "auto",
    corpus: Annotated[
        Path | None,
        typer.Option(
            "--corpus",
            metavar="FILE",
            help="Text whose keys are to be spared. Default: what the model writes itself, once for each model.",
        ),
    ] = None,
    edit: options.Edit = None,
    paraphrase: Annotated[
        list[str] | None,
        typer.Option(
            "--paraphrase", metavar="TEXT", callback=options.text, help="Another text that T should follow. Repeatable."
        ),
    ] = None,
    neighbor: Annotated[
        list[str] | None,
        typer.Option(
            "--neighbor",
            metavar="TEXT",
            callback=options.text,
            help="A text whose answer should stay as it is. Repeatable.",
        ),
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(
            "--ask",
            metavar="TEXT",
            callback=options.text,
            help="A question to be answered in a chat, before and after. Repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where to write the edit. Default: the data directory."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep the edit, with exit code 0, whatever is wrong with it.")
    ] = False,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", metavar="N", min=1, help="The length of the replies shown.")
    ] = 24,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: output.AsJson = False,
    html: output.Html = None,
    svg: output.Svg = None,
    encoding: options.Encoding = None,
    color: options.Color = None,
    quiet: options.Quiet = False,
) -> None:
    """Change a fact by an update of rank one (ROME), and show what it did to the fact, its neighbors and all else.

    Exit code 1, and nothing is kept, where it did not take or did more than it should.
    """
    number = _layer(layer)
    text = None if corpus is None else read_file_text(corpus)
    _check_writable(out)
    checkpoint = find_checkpoint(model)

    from llmcli.checkpoint.edits.edit_file import write_edit
    from llmcli.checkpoint.edits.store import new_edit_file
    from llmcli.checkpoint.file_hashes import weights_hash
    from llmcli.editing.edit_fact import Fact, check_editable, make_edit
    from llmcli.views.reports.edit import NOTE, SCHEMA, edit_view
    from llmcli.views.terminal.progress import progress_bar

    check_editable(checkpoint.config, checkpoint.name, number)
    over = read_edit_files(checkpoint, edit) if edit else ()
    with progress_bar() as progress:
        ours = weights_hash(checkpoint, lambda done, total: progress("Hashing the model's files", done, total))
    loaded = load_model(checkpoint, device=device, dtype=dtype, precise=True)
    wanted = Fact(prompt, subject, target, tuple(paraphrase or ()), tuple(neighbor or ()), tuple(ask or ()))
    with progress_bar(unit="steps") as progress:
        made, report = make_edit(
            loaded, ours, wanted, layer=number, corpus=text, over=over, reply_tokens=max_tokens, progress=progress
        )
    output.present(
        edit_view(report),
        schema=SCHEMA,
        value=report,
        as_json=as_json,
        html=html,
        svg=svg,
        after=() if terminal.is_quiet() else (NOTE,),
        title="llm edit",
    )
    if report.problems and not force:
        terminal.error("Nothing was kept; --force keeps the edit all the same.")
        raise typer.Exit(1)
    path = new_edit_file(subject, target) if out is None else out
    write_edit(path, made)
    terminal.note(f"Written to {path}. Use it with -e {path.stem if out is None else path}.")


def _check_writable(out: Path | None) -> None:
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UsageError(f"The edit cannot be written to {out}: give a file in a folder that exists.")


def _layer(given: str) -> int | None:
    if given == "auto":
        return None
    with suppress(ValueError):
        return int(given)
    raise UsageError(f'--layer {given} is neither the number of a block nor "auto".')
