"""Pre-tokenizers: the regular expressions by which byte-level BPE vocabularies split text into words before merging.

A GGUF file names its rule in `tokenizer.ggml.pre`; the meaning of a name is a convention of converters and readers. The
expressions are from the models' own `tokenizer.json` files.
"""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers

from llmcli.errors import UnsupportedModelError

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SIGNS}|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_SEED_CODER = rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"
_TEKKEN = rf"{_START}{_UPPER}*{_LOWER}+|{_START}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT4O = (
    rf"{_START}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_START}{_UPPER}+{_LOWER}*{_CONTRACTION}?|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
_HAN_APART = (
    rf"[\p{{Han}}]+|{_START}[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]*"
    rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]+{_CONTRACTION}?"
    rf"|{_START}[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]+"
    rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]*{_CONTRACTION}?|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
)
# A word may contain single spaces.
_EXAONE_MOE = (
    rf"{_CONTRACTION}|{_START}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_JAIS2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|\s*[\r\n]+" + (
    "".join(rf"|\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s"
)
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    rf"{_START}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_START}{_UPPER}+{_LOWER}*{_CONTRACTION}?|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
)
_BAILING = rf"'(?i:[sdmt]|ll|ve|re)|{_WORD}|\p{{N}}|{_SIGNS}|\s*[\r\n]|\s+(?!\S)|\s+"
_MINICPM5 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SIGNS}|{_SPACES}"
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# Written as code points, since several of these letters have look-alikes.
_DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_DEEPSEEK_LETTERS}]+",
    r"\s?[!-/:-~" + "\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002" + "]+",
    r"\s+$",
    _CJK,
    r"\p{N}+",
)
# Digits in threes from the right; runs of East and South East Asian letters; a sign before Latin letters.
_AFMOE = (
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e00-\u0eff\u1780-\u17ff"
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+",
    r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_TURKISH = rf"{_WORD}|\p{{N}}|{_SIGNS}|{_SPACES}"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

_LLAMA_BPE = "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral lfm2 midm-2.0 jina-v5-nano"

# (expressions, names of the rule). Each expression splits the pieces that the previous ones left whole.
_RULES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (_LLAMA3,),
        f"{_LLAMA_BPE} dbrx smaug-bpe glm4 glm5 chatglm-bpe",
    ),
    ((_QWEN2,), "qwen2 deepseek-r1-qwen megrez stablelm2 hunyuan solar-open kormo f2llmv2 grok-2"),
    ((_QWEN35,), "qwen35"),
    ((_TEKKEN,), "tekken"),
    ((_GPT4O,), "gpt-4o llama4 kanana2 minimax-m2 talkie"),
    ((_HAN_APART,), "kimi-k2"),
    ((_EXAONE_MOE,), "exaone-moe"),
    ((_JAIS2,), "jais-2"),
    (_YOUTU, "youtu"),
    (_AFMOE, "afmoe"),
    ((_BAILING,), "bailingmoe bailingmoe2 llada-moe"),
    ((r"\p{N}{1,3}", _MINICPM5), "minicpm5"),
    # These two have digits in threes from the right. Words of SuperBPE contain spaces.
    ((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O), "tiny_aya cohere2moe"),
    ((r"\p{N}+", r"(?=(\d{3})+(?!\d))"), "superbpe"),
    ((r"[^\n]+|\n+", _QWEN2), "laguna"),
    # Suffixes after an apostrophe stay with it.
    ((_TURKISH,), "ufakzeka"),
    (
        (_GPT2,),
        "gpt-2 phi-2 olmo mpt jais exaone4 modern-bert gigachat a.x-4.0 mellum trillion granite-docling roberta-bpe",
    ),
    ((r"\p{N}", _GPT2), "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2"),
    ((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"), "falcon"),
    (
        (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK3),
        "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    ),
    ((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"), "deepseek-coder"),
    (_DEEPSEEK_LLM, "deepseek-llm"),
    ((_BLOOM,), "bloom poro-chat gpt3-finnish"),
    ((_BLOOM, r"\p{N}"), "viking"),
    ((_SEED_CODER,), "seed-coder"),
    ((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), "default"),
)
_SPLITS = {name: splits for splits, names in _RULES for name in names.split()}

BOS_BY_DEFAULT = frozenset([*_LLAMA_BPE.split(), "tekken"])
"""Rules for which text begins with BOS unless the file says otherwise."""

IGNORES_MERGES = BOS_BY_DEFAULT | {"glm4", "glm5", "youtu", "minicpm5"}
"""Rules for which a word that is a token itself is used directly, without merges."""


LLAMA3_WORDS, QWEN2_WORDS, TEKKEN_WORDS, KIMI_WORDS = _LLAMA3, _QWEN2, _TEKKEN, _HAN_APART
"""The word expressions of Llama 3, Qwen 2, Mistral's tekken and Kimi."""


def gguf_pre_tokenizer(name: str, *, source: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer for the rule `name` in `tokenizer.ggml.pre`.

    Raises:
        UnsupportedModelError: the rule is not known; another one would produce tokens the model was not trained on.
    """
    if name not in _SPLITS:
        raise UnsupportedModelError(
            f"{source} splits text into words by the rule {name!r} (tokenizer.ggml.pre), which is not supported."
        )
    return byte_level_pre_tokenizer(*_SPLITS[name])


def byte_level_pre_tokenizer(*expressions: str, prefix_space: bool = False) -> pre_tokenizers.PreTokenizer:
    """Split text at the matches of each of `expressions` in turn, then write it in the byte alphabet."""
    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in expressions]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
    return pre_tokenizers.Sequence([*splits, byte_level])
