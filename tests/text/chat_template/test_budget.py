"""Templates that would run forever or fill the memory are stopped; long conversations are not."""

from __future__ import annotations

import pytest

from llmcli.errors import CheckpointError
from llmcli.text.chat_template.budget import LIMITS, Limits
from llmcli.text.chat_template.template import ChatTemplate

# Templates that would run for hours.
pytestmark = pytest.mark.slow

MESSAGES: list[dict[str, object]] = [{"role": "user", "content": "Hi"}]
TEXT = "{% set a = 'xxxxxxxx' %}"


def render(source: str, messages: list[dict[str, object]] = MESSAGES, limits: Limits = LIMITS) -> str:
    return ChatTemplate(source, special_tokens={}, limits=limits).render(messages)


@pytest.mark.parametrize(
    "source",
    [
        # Endless loops.
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set r = range(99999) %}{% for i in r %}{% for j in r if false %}{% endfor %}{% endfor %}",
        "{% set r = range(9999) %}{% for i in r %}{% for j in [r, r] recursive %}{{ loop(j) if loop.depth < 2 }}"
        "{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in range(99999) %}{% set s = ('a ' * 1000000).split() %}{% endfor %}",
        "{{ [1] | slice(1000000000000) | list }}",
        # One step that enlarges a small value.
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * [1] }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 999999999) }}",
        "{{ ('{:>999999999}' | attr('format'))(1) }}",
        "{{ '{a:>999999999}'.format_map({'a': 1}) }}",
        "{{ 'x'.center(2000000000) }}",
        "{{ 'x' | center(2000000000) }}",
        "{{ '1'.zfill(1000000000) }}",
        "{{ (1).to_bytes(1000000000, 'big') }}",
        "{{ [1] | batch(1000000000, 0) | list }}",
        "{{ ('\\n' * 1000000) | indent(1000000) }}",
        "{{ ('\\t' * 1000000).expandtabs(1000000) }}",
        "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}",
        "{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}",
        "{{ ('x ' * 1000000) | wordwrap(1, wrapstring='y' * 10000) }}",
        "{{ range(99999) | join('y' * 1000000) }}",
        "{{ ('y' * 1000000).join(range(99999) | map('string')) }}",
        "{{ range(99999) | map('string') | map('replace', '1', 'x' * 1000000) | list }}",
        "{{ range(9999) | list | tojson(indent=100000) }}",
        "{{ strftime_now('%999999999Y') }}",
        "{{ 9**9**9 * 1 if false else 99999 ** 99999 }}",
        # Many small steps that double.
        TEXT + "{% set a = a ~ a %}" * 40,
        TEXT + "{% set a = a + a %}" * 40,
        TEXT + "{% set a %}{{ a }}{{ a }}{% endset %}" * 40,
        TEXT + "{% set a = [a, a] %}" * 40 + "{{ a }}",
        TEXT + "{% set a = (a, a) %}" * 40 + "{{ {a: 1} }}",
        TEXT + "{% set a = dict(x=a, y=a) %}" * 40 + "{{ a | tojson }}",
        "{% set n = namespace(v=9) %}{% for i in range(60) %}{% set n.v = n.v * n.v %}{% endfor %}",
        "{% set n = namespace(v=[]) %}{% for i in range(999) %}{% set n.v = [n.v] %}{% endfor %}{{ n.v }}",
        "{% set x %}{% for i in range(99999) %}" + "A" * 100000 + "{% endfor %}{% endset %}",
    ],
)
def test_excessive_work_is_refused(source: str) -> None:
    with pytest.raises(CheckpointError, match=r"'default' fails: it (takes|makes|has|nests|computes) "):
        render(source, limits=Limits(operations=100_000))


def test_time_is_limited_too() -> None:
    with pytest.raises(CheckpointError, match="more than 0 seconds"):
        render("{% for i in range(99999) %}{% set s = range(99999) | sort %}{% endfor %}", limits=Limits(seconds=0.1))


def test_a_namespace_that_contains_itself_has_a_short_representation() -> None:
    nested = "{% set a = namespace() %}" + "{% set b = namespace(x=a, y=a) %}{% set a = b %}" * 40
    assert render(nested + "{{ a }}") == "<namespace>"


@pytest.mark.parametrize("source", ["x" * 200_000, "{{ a" + ".b" * 60_000 + " }}", "{% if a %}" * 12_000])
def test_an_overlong_or_invalid_source_is_refused(source: str) -> None:
    with pytest.raises(CheckpointError, match=r"chat template 'default' (has 200000 characters|cannot be compiled)"):
        render(source)


def test_long_conversations_fit_the_budget() -> None:
    source = (
        "{% for m in messages %}{% set text = m.content | trim %}{{ '<' ~ m.role ~ '>' + text }}"
        "{{ '%s' % m.role }}{{ {'role': m.role} | tojson }}{% endfor %}"
    )
    many: list[dict[str, object]] = [{"role": "user", "content": f"Message {n}"} for n in range(20_000)]
    assert render(source, many).endswith('<user>Message 19999user{"role": "user"}')
    long: list[dict[str, object]] = [{"role": "user", "content": "word " * 2_000_000}]
    assert len(render(source, long)) > 9_000_000


def test_operations_are_counted_also_for_failed_renderings() -> None:
    template = ChatTemplate("{% for i in range(messages | length) %}{{ i }}{% endfor %}", special_tokens={})
    template.render(MESSAGES)
    once = template.operations
    template.render(MESSAGES * 10)
    assert 0 < once < template.operations - once
    failing = ChatTemplate("{% for i in range(100) %}{% endfor %}{{ 1 / 0 }}", special_tokens={})
    with pytest.raises(CheckpointError, match="zero"):
        failing.render(MESSAGES)
    assert failing.operations > 100
