"""Markdown texts as models write them, valid and broken."""

from __future__ import annotations

CORPUS = {
    "prose": (
        "# A heading that is long enough for a line of its own, and then for another one\n\n"
        "Some *text* with **bold**, `code`, ~~gone~~, <b>tags</b>, AT&amp;T and a [link](https://example.org/x).\n"
        "Roses are red  \nViolets are blue\n\n## Second\nTight text, ![a picture](cat.png) in it.\n\n***\n\nEnd.\n"
    ),
    "lists": (
        "Intro:\n- one\n- two, which is a rather long item and has to be broken on a narrow screen\n  - nested\n"
        "    1. deep\n    2. deeper\n       more of it\n- three\n\n  with a paragraph\n\n"
        "1. first\n2. second\n\n   ```sh\n   ls\n   ```\n"
        + "".join(f"{n}. item {n}\n" for n in range(3, 13))
        + "\n* [ ] open\n"
    ),
    "tables": (
        "| Name | Value | Remark |\n|:-----|:--:|------:|\n| a | 1 | short |\n"
        "| bcd | `2222` | a remark of many words that makes its column the widest of them all |\n| x | | |\n\n"
        "After.\n\n| one |\n|---|\n"
        + "".join(f"| row {n} {'x' * n} |\n" for n in range(12))
        + "\nNot | a table\nat all\n"
    ),
    "code": (
        'Try this:\n\n```python\ndef f(x):\n    """Doc\n\n    # no heading\n    """\n    return x  # '
        + "long " * 20
        + "\n```\n\n````md\n```\nfence in a fence\n```\n````\n    indented\n\n    code\n\n~~~\n- no list\n"
        + "line\n" * 30
    ),
    "cjk": (
        "## 标题很长很长很长很长很长很长很长很长很长很长很长很长\n\n"
        "你好，世界。这是一个很长的句子，需要在窄屏上换行显示，因为它没有空格。\n\n"
        "| 名称 | 值 |\n|---|---|\n| 日本語 | 한국어 |\n| é | 😀 |\n\n"
        "- 一\n- 二\n  - 三\n\n> 引用：**粗体**\n\n```\n代码 = 1\n```\n"
    ),
    "quotes": "> quoted\ngoes on\n> - list\n>   in it\n>\n> ```\n> code\n> ```\n\nText\n> again\n\n> > deeper\n",
    "unfinished": "**bold\n- a\n\n-\n\n1\n2. x\n#\n#1\n---\n| a |\n|-\n```py\nx = 1",
    "references": "See [this], [that][1].\n\n[this]: http://example.org/this\n[1]: <http://example.org/1> '1'\n\nEnd",
    "hostile": "\x1b[31mred\x07 &#x202e;gnp.exe [a](b&#x202e;c) \x9b2J `\x1b[2J`\n\n```\x1b]0;x\n\x1b[2J\x08\n```\n"
    + "> " * 40,
    "nothing": "\n \n\n",
}
