"""What a worker does: load the model, then answer lines as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue

from llmcli.commands.batch.answers import LocalAnswers
from llmcli.commands.batch.input import Line
from llmcli.commands.batch.workers.messages import Answered, Begun, Message, ModelReady, Note, WorkerFailed, WorkerJob
from llmcli.errors import LlmcliError
from llmcli.views.terminal import terminal


def work(job: WorkerJob, inbox: SimpleQueue[Sequence[Line]], send: Callable[[Message], None]) -> None:
    """Answer the lines of `inbox` until the process is ended; returns only after an error, which is sent."""
    from llmcli.checkpoint.rank_part import fingerprint
    from llmcli.commands.shared.load_model import find_checkpoint
    from llmcli.engine import Interruption

    # Notes are shown by the command; there is no terminal for progress.
    terminal.set_quiet(True)
    terminal.pass_notes_to(lambda text: send(Note(text)))
    try:
        checkpoint = find_checkpoint(job.asked.model.model)
        answers = LocalAnswers(job.asked, checkpoint, job.parallel)
        send(ModelReady(answers.parallel, answers.stats.path, fingerprint(checkpoint)))
        while True:
            for result in answers.answer(_arriving(inbox, send), Interruption()):
                send(Answered(result, answers.stats.peak_memory_bytes))
    except LlmcliError as error:
        send(WorkerFailed(error))
    except Exception as error:
        # Only type and place are certain to quote no prompt.
        send(WorkerFailed(LlmcliError(f"{type(error).__name__} in a worker")))
        raise


def job_for(job: WorkerJob, *, device: str | None = None, threads: int | None = None) -> WorkerJob:
    """`job` for a worker with its own device and number of threads."""
    model = job.asked.model
    model = replace(model, device=device or model.device, threads=threads or model.threads)
    return replace(job, asked=replace(job.asked, model=model))


def _arriving(inbox: SimpleQueue[Sequence[Line]], send: Callable[[Message], None]) -> Iterator[Line]:
    """Lines of the inbox, until it is empty; waits only for the first.

    Waiting for more would stop the replies that have begun, and the command may wait for one of them.
    """
    lines = inbox.get()
    while True:
        for line in lines:
            send(Begun(line.index))
            yield line
        try:
            lines = inbox.get_nowait()
        except Empty:
            return
