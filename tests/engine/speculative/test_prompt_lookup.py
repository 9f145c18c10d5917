from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmcli.engine.speculative.prompt_lookup import LONGEST, SHORTEST, Lookup, Match


def longest_match(ids: list[int], most: int) -> Match | None:
    """The longest match by comparing every position."""
    end = len(ids)
    found: Match | None = None
    for place in range(end - 1, 0, -1):
        same = 0
        while same < min(place, LONGEST) and ids[place - same - 1] == ids[end - same - 1]:
            same += 1
        if same >= SHORTEST and (found is None or same > found.length):
            period = end - place
            found = Match(same, [ids[place + further % period] for further in range(most)])
    return found


# Few tokens and short texts: they repeat, but no phrase occurs more often than occurrences are compared.
@given(st.lists(st.integers(0, 2), max_size=18), st.lists(st.integers(0, 2), max_size=18))
def test_the_longest_and_latest_match_is_found(before: list[int], after: list[int]) -> None:
    lookup = Lookup()
    for length in range(len(before), len(before) + len(after) + 1):
        text = [*before, *after][:length]
        assert lookup.find(text, 5) == longest_match(text, 5)


def test_only_the_latest_occurrences_of_a_common_phrase_are_compared() -> None:
    lookup = Lookup()
    text = [1, 2, 3, 9, *[1, 2, 3, 7] * 200, 1, 2, 3]
    match = lookup.find(text, 2)
    assert match == Match(LONGEST, [7, 1])
