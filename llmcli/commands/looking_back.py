"""Looking back at a token of the last reply in a chat: `/why N`, `/lens N`, `/attention N`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.views import terminal
from llmcli.views.progress import progress_bar

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcli.api import LoadedModel
    from llmcli.engine import Conversation


class LookingBack:
    """Reads the conversation once more, beside the chat's own memory of it, and tells about one token."""

    def __init__(self, loaded: LoadedModel, conversation: Conversation, *, quiet: bool) -> None:
        self._loaded, self._conversation, self._quiet = loaded, conversation, quiet

    def why(self, argument: str) -> None:
        """What else the token could have been, what was read, and what wrote it."""
        from llmcli.inspection.card import inspect_token
        from llmcli.views.card import NOTE, CardView

        ids, at = self._find(argument)
        with progress_bar(enabled=not self._quiet, unit="steps") as progress:
            card = inspect_token(self._loaded, ids, at, progress=progress)
        self._show(CardView(card), NOTE)

    def lens(self, argument: str) -> None:
        """What each layer would have said in its place."""
        from llmcli.inspection.lens import lens
        from llmcli.views.lens import NOTE, LensView

        ids, at = self._find(argument)
        with progress_bar(enabled=not self._quiet, unit="tokens") as progress:
            found = lens(
                self._loaded, ids, [at - 1], progress=lambda done, total: progress("Reading again", done, total)
            )
        self._show(LensView(found), NOTE)

    def attention(self, argument: str) -> None:
        """What each block read to say it."""
        from llmcli.inspection.reading import summary
        from llmcli.views.attention import NOTE, attention_view

        ids, at = self._find(argument)
        with progress_bar(enabled=not self._quiet, unit="tokens") as progress:
            found = summary(
                self._loaded, ids, [at - 1], progress=lambda done, total: progress("Reading again", done, total)
            )
        self._show(attention_view(found), NOTE)

    def _find(self, argument: str) -> tuple[Sequence[int], int]:
        """The conversation up to the end of the last reply, and where in it the reply's token number N stands.

        Raises:
            UsageError: there is no such token.
        """
        prompt, reply = self._conversation.last_prompt, self._conversation.last_reply
        if not reply:
            raise UsageError("There has been no reply yet.")
        try:
            number = int(argument or -1)
        except ValueError:
            raise UsageError(f"{argument!r} is not the number of a token. Without a number it is the last.") from None
        if not -len(reply) <= number < len(reply):
            raise UsageError(f"There is no token {number}: the last reply has {len(reply)}, numbered from 0.")
        return [*prompt, *reply], len(prompt) + number % len(reply)

    def _show(self, view: RenderableType, note: str) -> None:
        terminal.console_out().print(view)
        if not self._quiet:
            terminal.note(note)
