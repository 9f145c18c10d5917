from __future__ import annotations

from llmcli.inspection.evaluation.tokenization import Tokenization
from llmcli.views.inspect.tokenization import tokenization_view
from tests.support.inspections.tokenization import RESULT
from tests.support.terminal.drawing import drawn, drawn_in_color, without_color

WIDE = r"""
<|bos|>│␣Zoë⏎│\xf0\x9f│␛[2J
#    id  token     bytes
0   256  <|bos|>   3c 7c 62 6f 73 7c 3e  control
1    70  ␣Zoë⏎     20 5a 6f c3 ab 0a
2  1027  \xf0\x9f  f0 9f
3     9  ␛[2J      1b 5b 32 4a
4 tokens, 10 characters, 12 bytes, 3.3 characters a token
""".strip("\n")
NARROW = r"""
<|bos|>│␣Zoë⏎│\xf0\x9f│␛[2J
#    id  token     bytes
0   256  <|bos|>   3c 7c 62 6f   control
                   73 7c 3e
1    70  ␣Zoë⏎     20 5a 6f c3
                   ab 0a
2  1027  \xf0\x9f  f0 9f
3     9  ␛[2J      1b 5b 32 4a
4 tokens, 10 characters, 12 bytes, 3.3
characters a token
""".strip("\n")


def test_pieces_table_and_ratio() -> None:
    assert drawn(tokenization_view(RESULT), 60) == WIDE
    assert drawn(tokenization_view(RESULT), 40) == NARROW
    assert without_color(drawn_in_color(tokenization_view(RESULT), 60)) == WIDE


def test_control_tokens_alone_have_no_ratio() -> None:
    assert drawn(tokenization_view(Tokenization(RESULT.tokens[:1], 0, 0))).endswith("1 token, 0 characters, 0 bytes")
    assert drawn(tokenization_view(Tokenization((), 0, 0))).endswith("0 tokens, 0 characters, 0 bytes")
