"""Replies drawn as Markdown on a real terminal, and as plain text elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pexpect
import pytest

from tests.support.models.puppet import ASSISTANT, chain, ids_of, loop, write_puppet
from tests.support.terminal.chat import READY, chatting, leave
from tests.support.terminal.emulator import Emulator

pytestmark = pytest.mark.slow


def screen_after(child: pexpect.spawn, message: str, emulator: Emulator, *, speaks: bool = True) -> list[str]:
    """The lines on the screen after the reply to `message`, without earlier lines."""
    child.sendline(message)
    child.expect_exact("\x1b[?2004l")
    # Pastes are bracketed during a reply and an explanation too.
    for _ in range(1 + speaks):
        child.expect_exact(READY)
        emulator.write(child.before)
    return emulator.lines()


def test_a_list_longer_than_the_screen_is_drawn_once(tmp_path: Path) -> None:
    model = write_puppet(tmp_path / "lister", loop(b"- abc\n"), context=1000)
    with chatting(tmp_path, model, "-n", "300", size=(10, 60), plain=False) as child:
        assert screen_after(child, "Go on", Emulator(60, 10))[-50:] == [" • abc"] * 50
        child.sendeof()
        child.expect(pexpect.EOF)


def test_ctrl_c_keeps_the_partial_reply_on_the_screen(tmp_path: Path) -> None:
    # Numbered, so that each drawing differs from the last even where the list is longer than the screen.
    model = write_puppet(tmp_path / "lister", loop(b"1. abc\n"), context=100_000)
    with chatting(tmp_path, model, size=(10, 60), plain=False) as child:
        emulator = Emulator(60, 10)
        child.sendline("Go on")
        for _ in range(8):
            child.expect_exact("\x1b[?2026l")
            emulator.write(child.before + child.after)
        child.sendintr()
        child.expect_exact("the text so far is kept")
        emulator.write(child.before)
        numbers = [int(line.split()[0]) for line in emulator.lines() if line.endswith(" abc")]
        child.expect_exact(READY)
        child.sendline("/tokens")
        child.expect(r"(\d+)  lister: 1. abc")
        # The last item may lack its newline but is complete: six tokens of seven.
        items = (int(child.match[1]) + 1) // 7
        assert items > 2
        assert numbers == list(range(1, items + 1))
        leave(child)


def test_the_window_can_become_narrower_during_a_reply(tmp_path: Path) -> None:
    model = write_puppet(tmp_path / "talker", loop(b"abcde "), context=100_000)
    with chatting(tmp_path, model, "-n", "3000", size=(24, 80), plain=False) as child:
        # Wide enough for the lines drawn before the program knew of the new size.
        emulator = Emulator(80, 24)
        child.sendline("Go on")
        child.expect_exact("\x1b[?2026l")
        emulator.write(child.before[child.before.index("\x1b[?2026h") :])
        child.setwinsize(24, 40)
        child.expect_exact(READY)
        emulator.write(child.before)
        lines = emulator.lines()
        assert max(map(len, lines)) <= 40
        assert " ".join(lines).split() == ["abcde"] * 500
        child.sendeof()
        child.expect(pexpect.EOF)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("LLMCLI_PLAIN", "1")])
def test_terminals_that_cannot_redraw_get_the_raw_reply(tmp_path: Path, name: str, value: str) -> None:
    model = write_puppet(tmp_path / "lister", chain(b"- a\n*b"))
    with chatting(tmp_path, model, plain=False, **{name: value}) as child:  # type: ignore[arg-type]
        child.sendline("Go on")
        child.expect_exact("- a\r\n*b")
        assert "\x1b[?2026h" not in child.before


def test_control_sequences_in_a_reply_do_not_reach_the_terminal(tmp_path: Path) -> None:
    model = write_puppet(tmp_path / "hostile", chain(b"\x1b]0;owned\x07[/b\r\x9b&#27"))
    with chatting(tmp_path, model, plain=False) as child:
        child.sendline("hi")
        child.expect_exact("␛]0;owned␇[/b␍")
        assert "\x1b]0;" not in child.before
        leave(child)


def test_why_and_branches_are_shown_on_the_screen(tmp_path: Path) -> None:
    first, second, last = ids_of(b"abc")
    model = write_puppet(tmp_path / "unsure", {ASSISTANT: {first: 0.6, second: 0.4}, second: {last: 1.0}})
    with chatting(tmp_path, model, size=(30, 40), plain=False) as child:
        assert screen_after(child, "Hm?", Emulator(40, 30))[-1] == "a"
        table = screen_after(child, "/why 0", Emulator(40, 30))
        assert any(re.match(r">1 a +60\.[01]%", line) for line in table)
        assert any(re.match(r" 2 b +(39\.9|40\.0)%", line) for line in table)
        assert screen_after(child, "/branch 0 2", Emulator(40, 30))[-1] == "bc"
        branches = screen_after(child, "/branches", Emulator(40, 30), speaks=False)
        assert branches[-2:] == [" 1  2 messages  Hm? / a", ">2  2 messages  Hm? / bc"]
        child.sendeof()
        child.expect(pexpect.EOF)
