from __future__ import annotations

import gc

import pytest

from llmcli.text.vocab.garbage_collection import no_collection


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_paused_and_restored(enabled: bool) -> None:
    @no_collection()
    def fails() -> None:
        assert not gc.isenabled()
        raise KeyError

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        for _ in range(2):
            with pytest.raises(KeyError):
                fails()
            assert gc.isenabled() is enabled
        with no_collection(), no_collection():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
