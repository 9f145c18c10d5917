from __future__ import annotations

from pathlib import Path

from rich.text import Text

from llmcli.commands.shared.options.output import ViewOptions
from llmcli.commands.shared.output import write_files


def test_an_html_page_is_replaced_atomically(tmp_path: Path) -> None:
    html, svg = tmp_path / "page.html", tmp_path / "picture.svg"
    for path in (html, svg):
        path.write_text("old")
    before = [path.stat().st_ino for path in (html, svg)]
    write_files(Text("seen"), title="title", output=ViewOptions(html=html, svg=svg))
    for path, inode in zip((html, svg), before, strict=True):
        assert "seen" in path.read_text(encoding="utf-8") and path.stat().st_ino != inode
    assert len(list(tmp_path.iterdir())) == 2
