"""The table of families in `models.md` is that of the code, and says how many families of `transformers` load."""

from __future__ import annotations

import re

from llmcli.checkpoint.families.refused_models import REASONS
from llmcli.checkpoint.families.registry import FAMILIES
from llmcli.checkpoint.huggingface.config import WRAPPERS
from llmcli.docs.pages import page
from tests.docs.family_facts import gguf_names, kernel_of

ROW = re.compile(r"\| `([\w-]+)` \| ([^|]+) \| ([^|]+) \| (C|-) \| [^|]+ \|")
# Types of the mapping whose models are saved under another type.
SAVED_AS = {"gpt-sw3": "gpt2"}
# Not decoders that write text alone.
OTHERS = re.compile(
    r".*(bert|bart|marian|pegasus|plbart|mvp|prophetnet|blenderbot|xlm|xlnet|xmod|electra|ernie$|data2vec|big_bird"
    r"|roformer|camembert|trocr|whisper|musicgen|moshi|git|got_ocr2|emu3|assistant|moss_|rembert|reformer).*"
)


def table() -> dict[str, tuple[str, str]]:
    """For each family in the page, its GGUF architectures and its kernel."""
    return {match[1]: (match[3].strip(), match[4]) for match in ROW.finditer(page("models"))}


def test_the_table_of_families_is_that_of_the_code() -> None:
    stated = table()
    assert sorted(stated) == sorted(FAMILIES)
    expected = {
        name: (", ".join(f"`{found}`" for found in gguf_names(name)) or "-", kernel_of(name)) for name in FAMILIES
    }
    assert stated == expected


def test_the_families_of_transformers_that_load() -> None:
    """Prints how many load, and the reason for each of the others; fails if one that the page names does not."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    loading, refused = [], {}
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        saved = SAVED_AS.get(name, name)
        if saved in FAMILIES or WRAPPERS.get(saved) in FAMILIES:
            loading.append(name)
        elif not OTHERS.fullmatch(name):
            refused[name] = REASONS.get(name, "not supported yet")
    print(f"{len(loading)} of {len(loading) + len(refused)} decoder-only text families of transformers load.")
    for name, reason in sorted(refused.items()):
        print(f"  {name}: {reason}")
    assert set(table()) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) <= set(loading)
    assert len(loading) >= 85
