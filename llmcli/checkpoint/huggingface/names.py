"""What Hugging Face checkpoints call the parts of a model, and what stands before the names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Longest first; what is left is the name inside the language model.
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
# Parts of models that also see or hear, which text does not need, and layers that predict further tokens.
_OTHER_PARTS = re.compile(
    r"(model\.|language_model\.)*(vision_tower|vision_model|multi_modal_projector|audio_tower|mtp)\..*"
)
# Buffers that older versions of transformers saved; each is computed from the configuration.
_OLD_BUFFERS = re.compile(
    r".*\.(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|attention\.rotary_emb\.inv_freq)"
)

# Our name, and what else it may be called. None of these names means anything else elsewhere.
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
    """The names of a checkpoint's tensors, found by their names inside the language model."""

    def __init__(self, names: Iterable[str], norm_names: Mapping[str, str]) -> None:
        """`norm_names` maps our name of a norm to the family's, where that name means another norm elsewhere."""
        self._norm_names = norm_names
        self._full: dict[str, str] = {}
        self._prefix = "model."
        for full in names:
            if is_ignored_name(full):
                continue
            prefix = next((prefix for prefix in _PREFIXES if full.startswith(prefix)), "")
            # Of two that end alike the first counts; the other is then a tensor that nothing uses.
            self._full.setdefault(full.removeprefix(prefix), full)
            if full.removeprefix(prefix) in ("embed_tokens.weight", "wte.weight", "embed_in.weight"):
                self._prefix = prefix
        self._layers = "h." if "h.0.ln_1.weight" in self._full else "layers."

    def has(self, name: str) -> bool:
        """There is a tensor of that name inside the language model."""
        return name in self._full

    def full(self, name: str) -> str:
        """The whole name in the files of a name inside the language model; the likeliest one if there is none."""
        return self._full.get(name, name if name.startswith("lm_head.") else self._prefix + name)

    def layer(self, index: int) -> str:
        """What stands before the names of one layer."""
        return f"{self._layers}{index}."

    def find(self, at: str, local: str) -> str:
        """The whole name of what we call `local`, within the layer whose names begin with `at`."""
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
        """The whole name of the first of `modules` that the layer has, or None."""
        found = (f"{at}{module}.{kind}" for module in modules if self.has(f"{at}{module}.{kind}"))
        return next(map(self.full, found), None)

    def offers(self, at: str, *modules: str, kind: str = "bias") -> bool:
        """The layer has that part of one of the modules, by our names or theirs."""
        candidates = [name for module in modules for name in (module, *_SYNONYMS.get(module, ()))]
        return self.first_of(at, candidates, kind) is not None


def belongs_to_model(full: str) -> bool:
    """The tensor of that whole name looks like a part of a language model."""
    return full.startswith((*_PREFIXES, "lm_head.", "embed_out.", "layers.", "h.", "wte.", "wpe.", "ln_f."))


def is_ignored_name(full: str) -> bool:
    """A tensor that generating text does not need."""
    return _OTHER_PARTS.fullmatch(full) is not None or _OLD_BUFFERS.fullmatch(full) is not None


def is_extra_layer(full: str, first: int, count: int) -> bool:
    """The tensor belongs to one of `count` layers behind the model's own, which predict further tokens."""
    match = re.search(r"\blayers\.(\d+)\.", full)
    return match is not None and first <= int(match[1]) < first + count
