"""Tiny random checkpoints, made with `transformers`, that load in milliseconds."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

_NORMS = re.compile(r"norm|ln_|\bln\d|pre_ln")
SPECIALS = ("<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
VOCABULARY = 256 + len(SPECIALS)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": None,
}


def byte_tokenizer() -> Tokenizer:
    """One token for each byte, so that any text can be encoded and every id is valid."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 256)])
    return tokenizer


def write_text_files(folder: Path, *, template: str | None = TEMPLATE) -> None:
    """Tokenizer files for a tiny model."""
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    config: dict[str, object] = {"bos_token": "<|bos|>", "eos_token": "<|end|>"}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def tiny_model(model_type: str, *, seed: int = 0, **overrides: Any) -> Any:
    """A random `transformers` model of a family; norms and biases are random too, so that omitting one is noticed."""
    import transformers

    # A copy, because some configuration classes add keys to nested values.
    config = transformers.AutoConfig.for_model(model_type, **copy.deepcopy({**SIZES, **overrides}))
    torch.manual_seed(seed)
    model = untrained(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # DBRX keeps attention in a module that is named after its norms.
            is_norm = _NORMS.search(name.replace("norm_attn_norm.attn.", "")) is not None
            if (is_norm and name.endswith("weight")) or name.endswith("scale"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.2)
            elif "time_mix_" in name:
                parameter.uniform_()
            elif name.endswith("time_decay"):
                # Some channels remember hardly more than a token, some all of the text.
                parameter.uniform_(-6, 1)
            elif name.endswith("sinks"):
                parameter.normal_()
            else:
                # Large enough that attention is far from uniform, which would hide mistakes.
                parameter.normal_(0, 0.15)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.3)
            elif name.endswith("layer_scalar"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("tid2eid"):
                # Different experts for each token.
                buffer.copy_(torch.rand(len(buffer), config.n_routed_experts).argsort()[:, : buffer.shape[1]])
    return model


def untrained(config: Any) -> Any:
    """The `transformers` model of a configuration, with the weights that its class begins with."""
    import transformers

    if config.model_type == "muse_glimmer_text":
        # A text model that `transformers` offers inside of a multimodal one only.
        tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
        config = transformers.MuseGlimmerConfig(text_config=config, vision_config=tower, out_hidden_size=64)
    if config.model_type == "muse_glimmer":
        made = transformers.MuseGlimmerForConditionalGeneration
        return made._from_config(config, attn_implementation="eager").eval()
    within = {"mistral4": transformers.Mistral4ForCausalLM, "mllama_text_model": transformers.MllamaForCausalLM}
    if config.model_type in within:
        # Text models that `transformers` offers inside of multimodal ones only.
        return within[config.model_type]._from_config(config, attn_implementation="eager").eval()
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def save(model: Any, folder: Path, **options: Any) -> Path:
    """Write a `transformers` model and tokenizer files as a checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, **options)
    write_text_files(folder)
    return folder


def edit_config(folder: Path, changes: dict[str, object], *, drop: tuple[str, ...] = ()) -> None:
    """Change keys of a folder's `config.json`."""
    path = folder / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps(config | changes))


def random_ids(count: int, *, seed: int = 1) -> list[int]:
    """Ids of ordinary tokens."""
    return torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
