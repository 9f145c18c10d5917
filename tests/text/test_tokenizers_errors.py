"""Output of the tokenizers library on stderr, at the level of file descriptors."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from llmcli.errors import CheckpointError
from llmcli.text.tokenizers_errors import encoded, wrap_tokenizer_errors
from llmcli.text.vocab.load import tokenizer_from_json
from tests.support.models.tiny import byte_tokenizer


@pytest.fixture
def broken() -> str:
    """A damaged tokenizer.json for which the library panics."""
    return json.dumps(
        {
            "added_tokens": [],
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        }
    )


def test_a_panic_leaves_only_other_output_on_stderr(
    broken: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMCLI_DEBUG", raising=False)

    def read() -> None:
        with pytest.raises(CheckpointError, match="charsmap"):
            tokenizer_from_json(broken, source="tokenizer.json")

    with wrap_tokenizer_errors("x"):
        os.write(2, b"before\n")
        # Inside another call, from the same thread and from another one.
        read()
        other = threading.Thread(target=read)
        other.start()
        other.join()
        assert capfd.readouterr().err == ""
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"
    monkeypatch.setenv("LLMCLI_DEBUG", "1")
    read()
    assert "panicked at" in capfd.readouterr().err


def test_other_output_is_kept_whole_and_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    # More than a pipe would hold.
    lines = b"".join(b"line %d\n" % number for number in range(20_000))
    with pytest.raises(CheckpointError, match="x: 5"), wrap_tokenizer_errors("x"):
        os.write(2, lines)
        raise ValueError(5)
    assert capfd.readouterr().err.encode() == lines


def test_ctrl_c_works_while_a_long_text_is_encoded() -> None:
    def interrupt() -> None:
        for _ in range(5):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    done = False
    with pytest.raises(KeyboardInterrupt):
        # It can count to five only if the library releases the GIL.
        threading.Thread(target=interrupt).start()
        encoded(byte_tokenizer(), "word " * 100_000)
        done = True
        time.sleep(60)
    assert not done


def test_a_closed_stderr_stays_closed() -> None:
    kept = os.dup(2)
    os.close(2)
    try:
        before = set(Path("/dev/fd").iterdir())
        with wrap_tokenizer_errors("x"):
            pass
        assert set(Path("/dev/fd").iterdir()) == before
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(2)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
