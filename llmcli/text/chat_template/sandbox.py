"""The environment in which chat templates are compiled: Jinja's sandbox with a budget.

Everything that can take long or grow is counted against the budget of the rendering: iterations of loops and macros;
calls, filters, operators and literals, whose results are estimated before and measured afterwards.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import datetime
from typing import Any, cast

from jinja2 import Template, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from llmcli.text.chat_template.budget import (
    Budget,
    OverBudgetError,
    estimate,
    estimate_format,
    estimate_power,
    estimate_product,
)

_HELPERS = ("lipsum", "cycler", "joiner")

_current: ContextVar[Budget] = ContextVar("budget")


class RefusedError(Exception):
    """Raised by the template itself, through `raise_exception`."""


class Generation(Extension):
    """`{% generation %}` marks replies for training; for a prompt, only its content is written."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block and keep its content, in a new scope."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _ShortNamespace(Namespace):
    """A namespace with a short representation, since it can contain itself, or others many times."""

    def __repr__(self) -> str:
        return "<namespace>"


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The environment of `transformers`, without generators of filler text, and with a budget."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, loopcontrols],
            # The optimizer would compute constants without a budget.
            optimized=False,
            finalize=_written,
        )
        for name in _HELPERS:
            del self.globals[name]
        functions: dict[str, Callable[..., object]] = {
            "raise_exception": _raise_exception,
            "strftime_now": strftime_now,
            "dict": _dict,
            "namespace": _ShortNamespace,
        }
        self.globals.update(functions)
        self.filters["tojson"] = _tojson
        self.filters = {name: _measured(name, function) for name, function in self.filters.items()}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Measure().template(tree)
        return tree

    # Called by nodes that `_Measure` inserts into the tree, and by Jinja for the template's own calls.

    def tick(self, characters: int) -> bool:
        """Count one iteration of a loop or call of a macro, which writes `characters` of constant text."""
        budget = _budget()
        budget.spend()
        budget.write(characters)
        return True

    def taken(self, value: object) -> object:
        """Count a literal list, tuple or dictionary."""
        return _budget().take(value)

    def concatenated(self, *values: object) -> str:
        """Count and apply the operator `~`."""
        budget = _budget()
        budget.fits(sum(map(budget.weight, values)))
        return cast(str, budget.take("".join(map(str, values))))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Count and make a call of a function, macro or method."""
        budget = _budget()
        name = getattr(__obj, "__name__", "")
        receiver = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        given = [*args, *kwargs.values()]
        if name == "join" and args:
            args = (_all(args[0]), *args[1:])
            given[0] = args[0]
        budget.fits(estimate(name, receiver, given, budget))
        return budget.take(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Count and apply an operator that can enlarge its operands."""
        budget = _budget()
        match operator:
            case "*":
                budget.fits(estimate_product(left, right, budget))
            case "**":
                estimate_power(left, right)
            case "%" if isinstance(left, str | bytes):
                budget.fits(estimate_format(left, [right], budget))
            case "+" if isinstance(left, str | list | tuple):
                budget.fits(budget.weight(left) + budget.weight(right))
        return budget.take(super().call_binop(context, operator, left, right))


def rendered(template: Template, variables: dict[str, Any], budget: Budget) -> str:
    """Render a compiled template within `budget`; raises whatever the template raises."""
    token = _current.set(budget)
    try:
        return template.render(variables)
    finally:
        _current.reset(token)


def strftime_now(form: str) -> str:
    """The current time in the format `form`, for system messages."""
    return datetime.now().strftime(form)


class _Measure:
    """Inserts calls into a template's syntax tree that count its work."""

    def template(self, tree: nodes.Template) -> None:
        """Change `tree` in place."""
        self._inside(tree)
        tree.body.insert(0, _tick(tree.body))

    def _inside(self, node: nodes.Node) -> None:
        for name, value in list(node.iter_fields()):
            if isinstance(value, nodes.Node):
                setattr(node, name, self._replaced(value))
            elif isinstance(value, list):
                setattr(node, name, [self._replaced(each) if isinstance(each, nodes.Node) else each for each in value])
        if isinstance(node, nodes.For):
            if node.test is not None:
                node.test = nodes.And(_call("tick", nodes.Const(0)), node.test)
            node.body.insert(0, _tick(node.body))
        elif isinstance(node, nodes.Macro | nodes.CallBlock | nodes.Block):
            node.body.insert(0, _tick(node.body))

    def _replaced(self, node: nodes.Node) -> nodes.Node:
        self._inside(node)
        if isinstance(node, nodes.Concat):
            return _call("concatenated", *node.nodes)
        if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
            return _call("taken", node)
        return node


def _call(name: str, *arguments: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None, lineno=1)


def _tick(body: list[nodes.Node]) -> nodes.ExprStmt:
    constant = sum(len(data.data) for node in body for data in _constants(node))
    return nodes.ExprStmt(_call("tick", nodes.Const(constant)), lineno=1)


def _constants(node: nodes.Node) -> Iterator[nodes.TemplateData]:
    """Constant text written each time `node` is executed, without loops and macros inside, which count themselves."""
    if isinstance(node, nodes.TemplateData):
        yield node
    elif not isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block):
        for child in node.iter_child_nodes():
            yield from _constants(child)


def _budget() -> Budget:
    try:
        return _current.get()
    except LookupError:
        # Jinja tries to compute constants while compiling; on failure it leaves them for the rendering.
        raise OverBudgetError("it is not being rendered") from None


def _written(value: object) -> object:
    """Count a value that is written to the output."""
    budget = _budget()
    budget.spend()
    text = value if isinstance(value, str) else str(budget.take(value))
    budget.write(len(text))
    return text


def _measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter: estimate its result before, and measure it afterwards."""
    passed = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        budget = _budget()
        before, (value, *rest) = args[:passed], args[passed:]
        if name == "join":
            value = _all(value)
        elif isinstance(value, Iterator):
            value = budget.take(value)
        budget.fits(estimate(name, value, [*rest, *kwargs.values()], budget))
        return budget.take(function(*before, value, *rest, **kwargs))

    return measured


def _all(items: Any) -> Any:
    """`items` as a list if it is an iterator or range, so that its length is known."""
    return list(_budget().take(iter(items))) if isinstance(items, Iterator | range) else items


def _raise_exception(message: object) -> str:
    raise RefusedError(message)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of Jinja's own filter."""
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return encoder.encode(value)
    budget, parts, size = _budget(), [], 0
    # Indentation can enlarge a small value.
    for part in encoder.iterencode(value):
        parts.append(part)
        size += len(part)
        budget.fits(size)
    return "".join(parts)
