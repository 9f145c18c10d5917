"""`python -m llmcli`: the same program as the `llm` command, whatever else is called `llm` on this machine."""

from llmcli.cli import run

run()
