"""Options for the prompt and the chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from llmcli.commands.shared.completion import PROMPT_TEMPLATES
from llmcli.commands.shared.options.flags import MODEL, PROMPT, flag, text, text_or_at_file
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.text.chat.messages import Message
    from llmcli.text.chat.prompt_request import PromptRequest


@dataclass(frozen=True)
class PromptOptions:
    """Everything about the prompt except its text."""

    system: Annotated[
        str | None,
        flag(
            "--system",
            "-s",
            metavar="TEXT|@FILE",
            callback=text_or_at_file,
            panel=PROMPT,
            help="Instructions before the conversation, or @ and a file with them.",
        ),
    ] = None
    file: Annotated[
        list[str] | None,
        flag(
            "--file",
            "-f",
            env=False,
            metavar="FILE",
            panel=PROMPT,
            help="Put a text file before the prompt, - for piped text; repeatable.",
        ),
    ] = None
    prompt_template: Annotated[
        str | None,
        flag(
            "--prompt-template",
            "-T",
            metavar="NAME",
            panel=PROMPT,
            autocompletion=PROMPT_TEMPLATES,
            help="Use a prompt saved by llm prompt save.",
        ),
    ] = None
    param: Annotated[
        list[str] | None,
        flag(
            "--param",
            env=False,
            metavar="KEY=VALUE",
            panel=PROMPT,
            help="Fill {KEY} in that prompt; repeatable.",
        ),
    ] = None
    prefill: Annotated[
        str,
        flag("--prefill", metavar="TEXT", callback=text, panel=PROMPT, help="Begin the reply with this text."),
    ] = ""
    no_thinking: Annotated[
        bool,
        flag(
            "--no-thinking",
            panel=PROMPT,
            help="Answer without thinking first, where the chat template allows it.",
        ),
    ] = False
    raw: Annotated[bool, flag("--raw", panel=PROMPT, help="Continue the text as it is, without the chat template.")] = (
        False
    )
    control_tokens: Annotated[
        bool,
        flag(
            "--control-tokens",
            panel=PROMPT,
            help="With --raw, and only for trusted text: read names of control tokens as such.",
        ),
    ] = False
    fill_in: Annotated[
        tuple[str, str] | None,
        flag(
            "--fill-in",
            env=False,
            callback=text,
            panel=PROMPT,
            help="Write what comes between two texts.",
            metavar="TEXT TEXT",
        ),
    ] = None
    strict_system: Annotated[
        bool,
        flag(
            "--strict-system",
            panel=PROMPT,
            help="Refuse a system prompt that the chat template leaves out.",
        ),
    ] = False
    chat_template: Annotated[
        str | None,
        flag(
            "--chat-template",
            also="LLMCLI_TEMPLATE",
            metavar="FILE|NAME",
            panel=MODEL,
            help="Use another chat template: from a file, or one of the model by name.",
        ),
    ] = None
    template_arg: Annotated[
        list[str] | None,
        flag(
            "--template-arg",
            callback=text,
            metavar="KEY=VALUE",
            panel=MODEL,
            help="Set a template variable, as in enable_thinking=false; repeatable.",
        ),
    ] = None

    def check_raw(self) -> None:
        """Raise `UsageError` if `--raw`, which skips the chat template, comes with an option for the template."""
        if self.raw and self.system:
            raise UsageError("--raw leaves out the chat template, so there is no place for a --system prompt.")
        if self.raw and (self.chat_template or self.template_arg):
            raise UsageError(
                "--raw leaves out the chat template, so --chat-template and --template-arg have no effect."
            )

    def request(
        self, text: str, variables: Mapping[str, object], *, before: "Sequence[Message]" = ()
    ) -> "PromptRequest":
        """The prompt for `text` after the messages `before`, which have no system prompt."""
        from llmcli.text.chat.prompt_request import PromptRequest

        return PromptRequest(
            text,
            tuple(before),
            system=self.system,
            variables=variables,
            prefill=self.prefill,
            raw=self.raw,
            control_tokens=self.control_tokens,
            no_thinking=self.no_thinking,
            strict_system=self.strict_system,
            after_gap=None if self.fill_in is None else self.fill_in[1],
        )

    def variables(self) -> dict[str, object]:
        """The variables of the chat template that --template-arg sets; see `template_variables` for errors."""
        return template_variables(self.template_arg)


_RESERVED = ("self", "messages", "add_generation_prompt")


def template_variables(arguments: Sequence[str] | None) -> dict[str, object]:
    """Parse `KEY=VALUE` arguments into variables of the chat template; values are JSON, Python or YAML, or else texts.

    Raises:
        UsageError: an argument has another form, or names a variable that only the program sets.
    """
    from llmcli.text.chat_template.variables import template_value

    variables: dict[str, object] = {}
    for argument in arguments or ():
        key, sign, value = argument.partition("=")
        if not sign or not key.isidentifier():
            raise UsageError(f"--template-arg {argument} is not of the form KEY=VALUE, as in enable_thinking=false.")
        if key in _RESERVED:
            raise UsageError(f"--template-arg cannot set {key}: it is not a variable of the template.")
        variables[key] = template_value(value)
    return variables
