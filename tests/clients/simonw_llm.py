"""Check the server with the program `llm` of Simon Willison: a reply, a list of models, a schema, a tool call.

    python -m tests.clients.simonw_llm PROGRAM

PROGRAM is that `llm`, version 0.36, in an environment without this package. Exit code 1 if an answer is wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import llmcli
from tests.support.server import serving
from tests.support.text.tool_templates import tool_checkpoint


def main() -> int:
    """Run the program on the same prompts as the Python API."""
    with tempfile.TemporaryDirectory() as name:
        model = llmcli.load(tool_checkpoint(Path(name, "model"), "hermes"))
        environment = {"PATH": os.environ["PATH"], "HOME": name, "LLM_USER_PATH": str(Path(name, "user"))}
        failed = 0
        with serving(model) as server:

            def check(what: str, wanted: object, *arguments: str) -> None:
                nonlocal failed
                run = subprocess.run(
                    [sys.argv[1], "openai", "endpoint", server.url, *arguments],
                    env=environment, input="", capture_output=True, text=True, timeout=120, check=False,
                )  # fmt: skip
                said = run.stdout.strip()
                is_right = wanted(said) if callable(wanted) else said == wanted
                failed += not (run.returncode == 0 and is_right)
                print(
                    "right" if run.returncode == 0 and is_right else "WRONG", what, repr(said[:80]), run.stderr[-200:]
                )

            options = ["-m", "any", "-o", "seed", "3", "-o", "max_tokens", "40"]
            text = model.generate([{"role": "user", "content": "Hi"}], seed=3, max_tokens=40).text
            check("models", lambda said: model.name in said, "--models")
            check("reply", text.strip(), "Hi", *options)
            check("without a stream", text.strip(), "Hi", *options, "--no-stream")
            check("schema", lambda said: isinstance(json.loads(said)["a"], int), "Hi", "--schema", "a int", *options)
            check("tools", lambda said: True, "Hi", "-T", "llm_version", *options)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
