"""Names of model parts in Hugging Face checkpoints, and the prefixes before them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Longest first; without its prefix a name is the name inside the language model.
_PREFIXES = (
    "model.language_model.model.",
    "language_model.model.",
    "model.language_model.",
    "model.text_model.",
    "language_model.",
    "transformer.",
    "gpt_neox.",
    "model.",
)
# Vision and audio parts, and layers for multi-token prediction; none is needed for text.
_OTHER_PARTS = re.compile(
    r"(model\.|language_model\.)*(vision_tower|vision_model|multi_modal_projector|audio_tower|mtp)\..*"
)
# Buffers that older versions of transformers saved; all are computed from the configuration.
_OLD_BUFFERS = re.compile(
    r".*\.(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|attention\.rotary_emb\.inv_freq)"
)

# Our name of a part, and its other names. Each of these names means the same in all families.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "embed_tokens": ("wte", "embed_in"),
    "embed_positions": ("wpe",),
    "norm": ("ln_f", "final_layer_norm", "final_layernorm"),
    "lm_head": ("embed_out",),
    "input_layernorm": ("ln_1",),
    "post_attention_layernorm": ("ln_2",),
    "self_attn.o_proj": ("self_attn.dense", "attn.c_proj", "attention.dense"),
    "mlp.gate_proj": ("feed_forward.gate_proj",),
    "mlp.up_proj": ("feed_forward.up_proj", "mlp.c_fc", "mlp.fc1", "mlp.dense_h_to_4h"),
    "mlp.down_proj": (
        "feed_forward.down_proj",
        "mlp.c_proj",
        "mlp.fc2",
        "mlp.dense_4h_to_h",
        "shared_mlp.output_linear",
    ),
    "mlp.gate": (
        "mlp.router",
        "block_sparse_moe.gate",
        "block_sparse_moe.router.layer",
        "feed_forward.router",
    ),
    "mlp.shared_expert.gate_proj": ("mlp.shared_experts.gate_proj", "feed_forward.shared_expert.gate_proj"),
    "mlp.shared_expert.up_proj": ("mlp.shared_experts.up_proj", "feed_forward.shared_expert.up_proj"),
    "mlp.shared_expert.down_proj": (
        "mlp.shared_experts.down_proj",
        "feed_forward.shared_expert.down_proj",
        "shared_mlp.output_linear",
    ),
}
_LAST = re.compile(r"(.+)\.(weight|bias|e_score_correction_bias)")


class TensorNames:
    """The tensor names of a checkpoint, looked up by names inside the language model."""

    def __init__(self, names: Iterable[str], norm_names: Mapping[str, str]) -> None:
        """`norm_names` maps our name of a norm to the family's name, for names that other families use differently."""
        self._norm_names = norm_names
        self._full: dict[str, str] = {}
        self._prefix = "model."
        for full in names:
            if is_ignored_name(full):
                continue
            prefix = next((prefix for prefix in _PREFIXES if full.startswith(prefix)), "")
            # If two names end alike, the first is used; the other one is reported as unused.
            self._full.setdefault(full.removeprefix(prefix), full)
            if full.removeprefix(prefix) in ("embed_tokens.weight", "wte.weight", "embed_in.weight"):
                self._prefix = prefix
        self._layers = "h." if "h.0.ln_1.weight" in self._full else "layers."

    def has(self, name: str) -> bool:
        """Whether the language model has a tensor of that name."""
        return name in self._full

    def full(self, name: str) -> str:
        """The full name in the files of a name inside the language model; the likeliest one if it is missing."""
        return self._full.get(name, name if name.startswith("lm_head.") else self._prefix + name)

    def layer(self, index: int) -> str:
        """The prefix of the names of one layer."""
        return f"{self._layers}{index}."

    def find(self, at: str, local: str) -> str:
        """The full name of our part `local`, in the layer with the prefix `at`."""
        match = _LAST.fullmatch(local)
        if match is None:
            return self.full(at + local)
        module, kind = match.groups()
        module = self._norm_names.get(module, module)
        for name in (module, *_SYNONYMS.get(module, ())):
            if self.has(f"{at}{name}.{kind}"):
                return self.full(f"{at}{name}.{kind}")
        return self.full(f"{at}{module}.{kind}")

    def first_of(self, at: str, modules: Iterable[str], kind: str) -> str | None:
        """The full name of the first of `modules` that the layer has, or None."""
        found = (f"{at}{module}.{kind}" for module in modules if self.has(f"{at}{module}.{kind}"))
        return next(map(self.full, found), None)

    def offers(self, at: str, *modules: str, kind: str = "bias") -> bool:
        """Whether one of the modules, by any of its names, has a tensor of this kind in the layer."""
        candidates = [name for module in modules for name in (module, *_SYNONYMS.get(module, ()))]
        return self.first_of(at, candidates, kind) is not None


def belongs_to_model(full: str) -> bool:
    """Whether a full name looks like a part of a language model."""
    return full.startswith((*_PREFIXES, "lm_head.", "embed_out.", "layers.", "h.", "wte.", "wpe.", "ln_f."))


def is_ignored_name(full: str) -> bool:
    """Whether a tensor is not needed to generate text."""
    return _OTHER_PARTS.fullmatch(full) is not None or _OLD_BUFFERS.fullmatch(full) is not None


def is_extra_layer(full: str, first: int, count: int) -> bool:
    """Whether a tensor is part of the `count` multi-token-prediction layers from `first` on."""
    match = re.search(r"\blayers\.(\d+)\.", full)
    return match is not None and first <= int(match[1]) < first + count
