"""Chat templates with tools, in the forms of the families whose calls are read."""

import json
from pathlib import Path

from tests.support.models.tiny_checkpoints import tiny_checkpoint

_BEGIN = "{{ '<|bos|>' }}{% if tools %}<|system|>{{ tools | tojson }}{% endif %}{% for m in messages %}"
_END = "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def _template(call: str, *, before: str = "", between: str = "", after: str = "") -> str:
    """A template that writes each call of a message as `call`."""
    calls = (
        f"{before}{{% for c in m.tool_calls %}}{{% if not loop.first %}}{between}{{% endif %}}"
        f"{{% set f = c.function %}}{call}{{% endfor %}}{after}"
    )
    return (
        f"{_BEGIN}{{{{ '<|' + ('user' if m.role == 'tool' else m.role) + '|>' }}}}"
        f"{{% if m.tool_calls %}}{{{{ m.content }}}}{calls}{{% else %}}{{{{ m.content }}}}{{% endif %}}"
        f"<|end|>{_END}"
    )


TEMPLATES = {
    "hermes": _template(
        '\n<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>'
    ),
    "llama": _template('{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}', between="; "),
    "mistral": _template(
        '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}, "id": "{{ c.id }}"}',
        before="[TOOL_CALLS][",
        between=", ",
        after="]",
    ),
    "mistral, newer": _template("[TOOL_CALLS]{{ f.name }}[CALL_ID]{{ c.id }}[ARGS]{{ f.arguments | tojson }}"),
    "arguments as text": _template(
        '<tool_call>{"name": "{{ f.name }}", "arguments": {{ f.arguments + "" }}}</tool_call>'
    ),
    "own marks": _template(
        '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}',
        before="<calls>[",
        between=", ",
        after="]</calls>",
    ),
    "split marks": _template(
        "<|user|>call<|system|>" + '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}'
    ),
    "unknown": _template("<call name={{ f.name }}>{{ f.arguments | tojson }}</call>"),
}
"""Templates by the name of their form."""


def tool_checkpoint(folder: Path, form: str) -> Path:
    """A random model in `folder` whose template writes calls in this form."""
    tiny_checkpoint(folder, "llama", max_position_embeddings=2048)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": TEMPLATES[form]}))
    return folder
