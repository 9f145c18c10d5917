"""`python -m tests.fuzz READER --seconds N`: coverage-guided fuzzing of one reader, with atheris (the extra `fuzz`).

It ends at the first input that makes the reader crash, take more than ten seconds or more than 2 GiB, and prints
where it saved that input; otherwise it prints how many inputs were tried.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris


def main() -> None:
    """Fuzz until the time is up."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("reader", help="Any of those in tests/fuzz/targets.py.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="A folder that keeps what was interesting for the next time.")
    asked = parser.parse_args()
    with atheris.instrument_imports(include=["llmcli", "jinja2"]):
        import llmcli.text.chat_template.sandbox  # noqa: F401  (imported where it is used, which would be too late)
        from tests.fuzz.targets import TARGETS, survives
    if asked.reader not in TARGETS:
        parser.error(f"there is no reader {asked.reader!r}: {', '.join(TARGETS)}")
    target = TARGETS[asked.reader]
    corpus = asked.corpus or Path(tempfile.mkdtemp(prefix="llmcli-corpus-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={asked.seconds}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-max_len=131072",
        "-print_final_stats=1",
        "-verbosity=1",
        f"-artifact_prefix={tempfile.gettempdir()}/llmcli-{asked.reader}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: survives(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
