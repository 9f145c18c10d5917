"""Settings of the next replies: `/model /system /set /show /template /probs /top`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace

from llmcli.commands.chat.session import ChatSession
from llmcli.commands.chat.slash_command import Command, named, whole_number
from llmcli.commands.shared.completion import model_names
from llmcli.commands.shared.options.prompt import template_variables
from llmcli.commands.shared.prompt_input import text_or_file
from llmcli.engine import SamplingParams
from llmcli.engine.sampling.logit_bias import token_biases
from llmcli.engine.sampling.sequence_breakers import breakers_of
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal
from llmcli.views.terminal.fit import hanging
from llmcli.views.terminal.sanitize import visible

_TEXTS = ("logit_bias", "dry_sequence_breakers", "stop")
_SWITCH = "stop_in_thinking"
_NUMBERS: dict[str, Callable[[str], object]] = {
    each.name: int if str(each.type).startswith("int") else float
    for each in fields(SamplingParams)
    if each.name not in (*_TEXTS, _SWITCH)
}
_SWITCHES = {"on": True, "off": False}
_ALWAYS_SHOWN = (
    "repeat_penalty", "temperature", "top_k", "top_p", "min_p", "seed", "max_tokens", "stop", "stop_in_thinking"
)  # fmt: skip
_TEMPLATE_ARG = "template_arg"
_ALIASES = {
    "temp": "temperature",
    "max_new_tokens": "max_tokens",
    "typical": "typical_p",
    "top_nsigma": "top_n_sigma",
    "dynatemp_exp": "dynatemp_exponent",
    "dry_sequence_breaker": "dry_sequence_breakers",
}


class ModelSettings:
    """The commands that show and change the model, prompt, sampling and display settings."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session

    def commands(self) -> list[Command]:
        """The slash commands of this group."""
        return [
            Command(
                "model",
                self._model,
                "continue with another model; without a name, show the model",
                "[NAME]",
                model_names,
                True,
            ),
            Command("system", self._system, "set the system prompt, or remove it with none, or show it", "[TEXT]"),
            Command(
                "set",
                self._set,
                "a sampling setting, as in /set temperature 0.2, or /set template-arg KEY=VALUE",
                "NAME VALUE",
                _setting_names,
            ),
            Command("show", self._show, "the settings, and where the conversation is saved"),
            Command("template", self._template, "the model's chat template"),
            Command("probs", self._probs, "color every token by its probability", "on|off", named("on", "off")),
            Command("top", self._top, "list the N most probable tokens at each position; 0 is off", "N"),
        ]

    def _model(self, argument: str) -> None:
        session = self._session
        if argument:
            # The old model is kept until the new one is loaded.
            chat_model = session.load(argument)
            before = _values(session.chat_model.params)
            # Settings that the user changed carry over, except logit biases: token IDs belong to one model.
            changed = {
                name: value
                for name, value in _values(session.params).items()
                if value != before[name] and name != "logit_bias"
            }
            session.params = replace(chat_model.params, **changed)  # type: ignore[arg-type]
            session.change_model(chat_model)
        session.say(f"Model: {session.loaded.name}, {session.conversation.engine.context_length} tokens of context")

    def _system(self, argument: str) -> None:
        session = self._session
        if argument:
            session.conversation.system = None if argument == "none" else text_or_file(argument, "/system")
            session.record_settings()
        session.say(f"System prompt: {session.conversation.system or '(none)'}")

    def _set(self, argument: str) -> None:
        session = self._session
        if not argument:
            self._show("")
            return
        given, _, text = argument.partition(" ")
        name = given.replace("-", "_")
        name, text = _ALIASES.get(name, name), text.strip()
        if name == _TEMPLATE_ARG:
            self._set_template_arg(text)
            return
        if name in self._session.conversation.template.variables:
            raise UsageError(f"{given} is a variable of the chat template: /set template-arg {given}={text or 'VALUE'}")
        if name not in (*_NUMBERS, *_TEXTS, _SWITCH):
            raise UsageError(f"There is no setting {given!r}. There are {', '.join(_setting_names())}.")
        if not text:
            raise UsageError(f"/set {given} needs a value; default restores the value at the beginning.")
        value: object
        if text == "default":
            value = getattr(session.chat_model.params, name)
        elif name in _TEXTS:
            value = () if text == "none" else self._texts(name, text)
        elif name == _SWITCH:
            if text not in _SWITCHES:
                raise UsageError(f"/set {given} is on or off.")
            value = _SWITCHES[text]
        elif text == "none" and name in ("seed", "max_tokens"):
            value = None
        else:
            try:
                value = _NUMBERS[name](text)
            except ValueError:
                raise UsageError(f"{text!r} is not a value for {given}, which is a number.") from None
        params = replace(session.params, **{name: value})  # type: ignore[arg-type]
        # Only to check the sequence breakers.
        breakers_of(params, session.loaded.tokenizer)
        session.params = params
        session.say(f"{_flag(name)}: {_shown(value)}")

    def _texts(self, name: str, text: str) -> object:
        """The new value of a setting with several values; a logit bias joins the others or replaces its token's."""
        if name != "logit_bias":
            return (text,)
        ((token, bias),) = token_biases([text], self._session.loaded.tokenizer)
        return tuple(sorted({**dict(self._session.params.logit_bias), token: bias}.items()))

    def _set_template_arg(self, text: str) -> None:
        """Set a variable of the chat template, as KEY=VALUE; `default` restores all to their first values."""
        from llmcli.text.chat_template.variables import unread_note

        session = self._session
        conversation = session.conversation
        if text == "default":
            conversation.template_args = dict(session.chat_model.template_args)
        elif text:
            given = template_variables([text])
            conversation.template_args = {**conversation.template_args, **given}
            unread = unread_note(conversation.template, given)
            if unread:
                session.say(unread)
        session.record_settings()
        shown = " ".join(f"{name}={value}" for name, value in conversation.template_args.items())
        session.say(f"template-arg: {shown or '(none)'}")

    def _show(self, _argument: str) -> None:
        session = self._session
        variables, values = session.conversation.template_args, _values(session.params)
        rows = [
            ("model", session.loaded.name),
            ("context", f"{session.used()} of {session.conversation.engine.context_length} tokens"),
            ("system", session.conversation.system or "(none)"),
            ("template-arg", " ".join(f"{name}={value}" for name, value in variables.items()) or "(none)"),
            *((_flag(name), _shown(value)) for name, value in values.items() if _is_shown(name, value)),
            ("probs", "on" if session.report.probs else "off"),
            ("top", str(session.report.top)),
            ("saved as", str(session.saved_as() or "(not saved)")),
        ]
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            session.say(hanging(f"{name.ljust(width)}  ", value, terminal.row_width()))

    def _template(self, _argument: str) -> None:
        template = self._session.conversation.template
        self._session.note(f"The chat template {template.name!r}:")
        out = terminal.stdout()
        out.write(visible(template.source) + "\n")
        out.flush()

    def _probs(self, argument: str) -> None:
        if argument not in ("", "on", "off"):
            raise UsageError("/probs is on or off.")
        self._session.report = replace(self._session.report, probs=argument != "off")
        self._session.say(f"probs: {'off' if argument == 'off' else 'on'}")

    def _top(self, argument: str) -> None:
        number = whole_number(argument, "a number of tokens")
        if number < 0:
            raise UsageError("/top must be 0 or more.")
        self._session.report = replace(self._session.report, top=number)
        self._session.say(f"top: {number}")


def _is_shown(name: str, value: object) -> bool:
    """Whether `/show` lists a setting: common settings always, others if they differ from the default."""
    return name in _ALWAYS_SHOWN or value != getattr(SamplingParams(), name)


def _flag(name: str) -> str:
    return name.removesuffix("s" if name == "dry_sequence_breakers" else "").replace("_", "-")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        texts = (f"{each[0]}{each[1]:+g}" if isinstance(each, tuple) else repr(each) for each in value)
        return " ".join(texts) or "(none)"
    return "(none)" if value is None else str(value)


def _values(params: SamplingParams) -> dict[str, object]:
    return {each.name: getattr(params, each.name) for each in fields(params)}


def _setting_names() -> Iterable[str]:
    return [_flag(name) for name in (*_NUMBERS, *_TEXTS, _SWITCH, _TEMPLATE_ARG)]
