"""A JSON text as it is written, byte by byte: whether it is inside a string, and how many digits its number has."""

from __future__ import annotations

from dataclasses import dataclass

# A signed or unsigned integer of 64 bits has at most 20 digits; 17 significant ones tell any two doubles apart; and an
# exponent of two digits never leads beyond the largest double.
INTEGER_DIGITS, FRACTION_DIGITS, EXPONENT_DIGITS = 20, 17, 2
_DIGITS = frozenset(b"0123456789")
_QUOTE, _BACKSLASH, _POINT = b'"\\.'


@dataclass(frozen=True)
class JsonText:
    """Where a JSON text stands after some bytes of it."""

    in_string: bool = False
    escaped: bool = False
    digits: int = 0
    """Digits since the last byte that is none, outside strings."""
    most_digits: int = INTEGER_DIGITS
    """Digits that this part of a number can have: the integer, the fraction or the exponent."""

    def after(self, data: bytes) -> JsonText:
        """Where it stands after `data` more."""
        in_string, escaped, digits, most = self.in_string, self.escaped, self.digits, self.most_digits
        for byte in data:
            if in_string:
                if escaped:
                    escaped = False
                elif byte == _BACKSLASH:
                    escaped = True
                elif byte == _QUOTE:
                    in_string = False
            elif byte in _DIGITS:
                digits += 1
            else:
                digits = 0
                in_string = byte == _QUOTE
                if byte == _POINT:
                    most = FRACTION_DIGITS
                elif byte in b"eE" and most >= FRACTION_DIGITS:
                    most = EXPONENT_DIGITS
                elif byte not in b"+-" or most != EXPONENT_DIGITS:
                    most = INTEGER_DIGITS
        return JsonText(in_string, escaped, digits, most)

    @property
    def digits_left(self) -> int:
        """Digits that can follow in this part of the number; 0 if there are enough."""
        return max(0, self.most_digits - self.digits)


def leading_digits(data: bytes) -> int:
    """How many digits `data` begins with."""
    return len(data) - len(data.lstrip(b"0123456789"))
