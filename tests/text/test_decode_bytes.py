"""Bytes of every encoding become text, or an error that says where decoding fails and what to do."""

from __future__ import annotations

import json
import locale

import pytest

from llmcli.errors import UsageError
from llmcli.text.chat_template.json_text import json_text
from llmcli.text.decode_bytes import UnknownEncodingError, checked_encoding, text_from_bytes

TEXT = "Grüße, мир 1, 世界 🙂\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_byte_order_mark_overrides_the_given_encoding(encoding: str) -> None:
    data = f"\ufeff{TEXT}".encode(encoding)
    assert text_from_bytes(data, "x") == text_from_bytes(data, "x", "cp1252") == TEXT


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030", "UTF8"])
def test_a_given_encoding_is_used_and_its_mark_removed(encoding: str) -> None:
    assert text_from_bytes(TEXT.encode(encoding), "x", encoding) == TEXT
    assert text_from_bytes(b"caf\xe9 \x93q\x94", "x", "cp1252") == "café “q”"


@pytest.mark.parametrize("text", ["hello world\n", "Привет, мир 1\n", "hi 🙂 there\n", "a\n"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_text_without_a_mark_is_refused_by_its_name(text: str, encoding: str) -> None:
    with pytest.raises(UsageError, match=f"^x has NUL bytes.* --encoding {encoding}") as told:
        text_from_bytes(text.encode(encoding), "x")
    assert not isinstance(told.value, UnknownEncodingError)
    assert text_from_bytes(text.encode(encoding), "x", encoding) == text


@pytest.mark.parametrize("data", [b"Hi\0", b"Hi!\0", b"a\0b", b"\0" + b"word " * 50, b"a\0b\0" + b"word " * 50, b""])
def test_stray_nuls_are_text(data: bytes) -> None:
    assert text_from_bytes(data, "x") == data.decode()


@pytest.mark.parametrize(
    ("data", "encoding", "told"),
    [
        (b"caf\xe9 au lait", None, "x is not UTF-8: the byte at offset 3 is 0xe9. Say how it is encoded, as in "),
        (b"\xed\xa0\x80", None, "offset 0 is 0xed"),
        (b"a\x81", "cp1252", "x is not in the encoding cp1252: the byte at offset 1 is 0x81. Give another --encoding."),
        (
            b"\xff\xfea\0\0\xd8",
            None,
            "x is not UTF-16 (little-endian), as its byte order mark says: the byte at offset",
        ),
        (
            b"\xef\xbb\xbfab\xff",
            "latin-1",
            "x is not UTF-8, as its byte order mark says: the byte at offset 5 is 0xff.",
        ),
        (b"+2AA-", "utf-7", "x is not in the encoding utf-7."),
    ],
)
def test_undecodable_bytes_are_reported_with_their_offset(data: bytes, encoding: str | None, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        text_from_bytes(data, "x", encoding)
    assert told in str(caught.value)


def test_the_locale_s_encoding_is_tried_after_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locale, "getpreferredencoding", lambda _: "cp1252")
    assert text_from_bytes(b"caf\xe9", "x") == text_from_bytes("café".encode(), "x") == "café"
    with pytest.raises(UnknownEncodingError, match="neither UTF-8 nor in the encoding of the locale, cp1252"):
        text_from_bytes(b"caf\xe9 \x81", "x")
    with pytest.raises(UnknownEncodingError, match=r"Save it as UTF-8\.$"):
        text_from_bytes(b"caf\xe9 \x81", "x", instead="Save it as UTF-8.")


@pytest.mark.parametrize("name", ["utf-8", "UTF_16", "cp1252", "latin-1", "shift_jis", "ascii"])
def test_names_of_encodings(name: str) -> None:
    assert checked_encoding(name) == name


@pytest.mark.parametrize("name", ["", "utf-9", "hex", "zlib", "rot13", "idna", "unicode_escape", "a\0b", "\udce9"])
def test_unknown_encodings_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not an encoding of text"):
        checked_encoding(name)


def test_json_keeps_bytes_of_names_as_escapes_and_everything_else_as_it_is() -> None:
    value = {"mod\udce8le \ud83d": ["é 🙂", "\\ud800"]}
    assert json_text(value) == '{"mod\\udce8le \\ud83d": ["é 🙂", "\\\\ud800"]}'
    assert json.loads(json_text(value, indent=2).encode()) == value
