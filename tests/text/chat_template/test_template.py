from __future__ import annotations

import pytest

from llmcli.errors import CheckpointError, UsageError
from llmcli.text.chat_template.template import ChatTemplate, choose_template

MESSAGES: list[dict[str, object]] = [{"role": "user", "content": "<b>&Hi"}, {"role": "assistant", "content": "é"}]


def render(source: str, **kwargs: object) -> str:
    template = ChatTemplate(source, special_tokens={"bos_token": "<s>"})
    return template.render(MESSAGES, add_generation_prompt=True, **kwargs)


@pytest.mark.parametrize(
    "source",
    [
        "{{ bos_token }}{{ pad_token }}{% for m in messages %}\n  {{ m.content }}\n{% endfor %}\n",
        "{% if tools is not none %}x{% endif %}{{ documents is none }}{{ add_generation_prompt }}",
        "{{ messages | tojson }}{{ messages | tojson(indent=2, sort_keys=True) }}{{ 'é' | tojson(ensure_ascii=True) }}",
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
        "a{% generation %}{{ messages[0].content }}{% endgeneration %}b",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{{ dict(a=1) }}{{ dict([('b', 2)]) }}",
        "{{ strftime_now('%Y') }} {{ missing is defined }} {{ missing }} {{ range(3) | list }}",
        "{{ messages[1:] | map(attribute='content') | join(',') | upper }} {{ messages[0].content | trim('<') }}",
        "  {%- if enable_thinking is defined and enable_thinking is false %}no{% endif %}",
    ],
)
def test_templates_render_as_in_transformers(source: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    expected, _ = render_jinja_template(
        [MESSAGES], chat_template=source, add_generation_prompt=True, bos_token="<s>", enable_thinking=False
    )
    assert render(source, enable_thinking=False) == expected[0]


def test_a_syntax_error_names_its_line() -> None:
    # Raised at first use only, so that a damaged template does not matter if none is used.
    template = ChatTemplate("a\nb\n{% for %}", name="tool_use", special_tokens={})
    for use in (template.check, lambda: template.render([]), lambda: template.variables):
        with pytest.raises(CheckpointError, match=r"'tool_use' has an error in line 3"):
            use()


def test_a_template_s_refusal_is_reported() -> None:
    with pytest.raises(UsageError, match="no system role here"):
        render("{% if messages[0].role == 'user' %}{{ raise_exception('no system role here') }}{% endif %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ missing.attribute }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ lipsum() }}",
        "{{ cycler(1) }}",
        "{{ joiner() }}",
        "{% include 'other' %}",
        "{{ '%d' % 'x' }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(99999999) }}",
        "{{ x | no_such_filter }}",
        "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}",
    ],
)
def test_a_template_that_fails_is_named(source: str) -> None:
    with pytest.raises(CheckpointError, match="chat template 'default'"):
        render(source)


def test_a_template_is_rendered_afresh_each_time() -> None:
    template = ChatTemplate("{{ messages | length }}", special_tokens={})
    assert [template.render(MESSAGES[:count]) for count in (2, 0, 1)] == ["2", "0", "1"]
    assert len(MESSAGES) == 2


def test_choosing_among_named_templates() -> None:
    assert choose_template({"rag": "a", "default": "b"}) == "default"
    assert choose_template({"rag": "a"}) == "rag"
    with pytest.raises(CheckpointError, match="rag, tool_use"):
        choose_template({"tool_use": "a", "rag": "b"})
    with pytest.raises(CheckpointError, match="none"):
        choose_template({})
