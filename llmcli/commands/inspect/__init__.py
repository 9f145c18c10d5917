"""`llm inspect`: the group of commands that look into a model."""

from collections.abc import Callable

import typer

from llmcli.commands.inspect.attention import attention
from llmcli.commands.inspect.cost import cost
from llmcli.commands.inspect.embeddings import embeddings
from llmcli.commands.inspect.heads import heads
from llmcli.commands.inspect.lens import lens
from llmcli.commands.inspect.moe_routing import experts
from llmcli.commands.inspect.needle import needle
from llmcli.commands.inspect.neurons import neurons
from llmcli.commands.inspect.state import state
from llmcli.commands.inspect.token import token
from llmcli.commands.inspect.tokens import tokens
from llmcli.commands.inspect.without import without

app = typer.Typer(
    name="inspect",
    help="Look into a model. Each view answers one question about a text or about the model.",
    epilog="llm inspect attention 'The cat sat on the mat'\n\n"
    "llm inspect lens 'The capital of France is'\n\n"
    "llm inspect token next 'The capital of France is'",
    no_args_is_help=True,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "attention": attention,
    "cost": cost,
    "embeddings": embeddings,
    "experts": experts,
    "heads": heads,
    "lens": lens,
    "needle": needle,
    "neurons": neurons,
    "state": state,
    "token": token,
    "tokens": tokens,
    "without": without,
}
for name, command in COMMANDS.items():
    # So that a negative token number is not parsed as an option.
    app.command(name, context_settings={"ignore_unknown_options": name == "token"})(command)
