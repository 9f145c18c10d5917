"""The state of a JSON text after each byte: whether it is inside a string, and how many digits the number has."""

from __future__ import annotations

from dataclasses import dataclass

# A signed or unsigned integer of 64 bits has at most 20 digits; 17 significant ones tell any two doubles apart; and an
# exponent of two digits never leads beyond the largest double.
INTEGER_DIGITS, FRACTION_DIGITS, EXPONENT_DIGITS = 20, 17, 2
_DIGITS = frozenset(b"0123456789")
_QUOTE, _BACKSLASH, _POINT = b'"\\.'


@dataclass(frozen=True)
class JsonText:
    """The state of an unfinished JSON text."""

    in_string: bool = False
    escaped: bool = False
    digits: int = 0
    """Consecutive digits at the end of the text, outside strings."""
    most_digits: int = INTEGER_DIGITS
    """The most digits that this part of a number may have: the integer, the fraction or the exponent."""

    def after(self, data: bytes) -> JsonText:
        """The state after `data` too."""
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
        """How many more digits this part of the number may have."""
        return max(0, self.most_digits - self.digits)


def leading_digits(data: bytes) -> int:
    """How many digits `data` begins with."""
    return len(data) - len(data.lstrip(b"0123456789"))
