"""Check the server with OpenAI's library for Node: models, replies, streams, tool calls, errors.

    python -m tests.clients.openai_node FOLDER

In FOLDER, `npm install openai` has been run. Exit code 1 if an answer differs from that of the Python API.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import llmcli
from tests.support.server import serving
from tests.support.text.tool_templates import tool_checkpoint


def main() -> int:
    """Run the script, and compare what it prints."""
    with tempfile.TemporaryDirectory() as name:
        model = llmcli.load(tool_checkpoint(Path(name, "model"), "hermes"))
        # Node looks for packages beside the script.
        script = Path(shutil.copy(Path(__file__).with_suffix(".mjs"), Path(sys.argv[1]) / "llmcli-check.mjs"))
        with serving(model) as server:
            run = subprocess.run(
                ["node", str(script), server.url], capture_output=True, text=True, timeout=120, check=False
            )
        script.unlink()
    if run.returncode:
        print(run.stderr)
        return 1
    found: dict[str, Any] = json.loads(run.stdout)
    reply = model.generate([{"role": "user", "content": "Hi"}], seed=3, max_tokens=12)
    reason = "length" if reply.finish_reason == "length" else "stop"
    call = [{"name": "weather", "arguments": '{"city": "Rome"}'}, "tool_calls"]
    wanted = {
        "models": [model.name],
        "model": model.name,
        "whole": [reply.text, reason, reply.stats.generated_tokens],
        "stream": [reply.text, reply.stats.generated_tokens],
        "call": call,
        "streamedCall": call,
        "error": [True, 400, "n"],
    }
    for key, value in wanted.items():
        print("same" if found[key] == value else f"DIFFERS, not {value}:", key, found[key])
    return int(found != wanted)


if __name__ == "__main__":
    raise SystemExit(main())
