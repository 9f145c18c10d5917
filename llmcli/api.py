"""The public Python API: `llmcli.load(...)` and the `LoadedModel` it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from llmcli.checkpoint import memory_estimate
from llmcli.checkpoint.chat_template_file import check_template_file
from llmcli.checkpoint.checkpoint import Checkpoint, open_checkpoint
from llmcli.checkpoint.edits.edit_file import Edit, apply_edits, read_edits
from llmcli.checkpoint.edits.store import find_edit
from llmcli.checkpoint.load_packed import Packing, default_packing
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.memory_estimate import LoadRequest
from llmcli.checkpoint.text_assets import TextParts
from llmcli.device import choose_device, choose_dtype
from llmcli.errors import CheckpointError, UsageError
from llmcli.hub.resolve import resolve
from llmcli.kernels.select import why_no_kernel
from llmcli.loaded_model import LoadedModel, warn
from llmcli.model import ModelConfig, Transformer
from llmcli.model.meta_device import meta_model
from llmcli.sizes import size
from llmcli.text.chat.end_of_turn import turn_end
from llmcli.text.stop_tokens import NO_STOP_TOKEN

# Devices with kernels for packed weights.
_PACKED_ON = ("cpu", "cuda")
# Bytes of dense weights that make replies slow enough to recommend --quantize.
_HEAVY = 1 << 30
# Bytes of weights that take seconds to read.
_LARGE = 4 << 30


def load(
    name_or_path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    kv_cache: str = "auto",
    template: str | None = None,
    context_length: int | None = None,
    edits: Sequence[str | Path] = (),
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> LoadedModel:
    """Load a model: a Hugging Face folder, a GGUF file, a name in the store or on the hub, or None for the starter.

    - `device`: auto, cpu, cuda, cuda:N or mps.
    - `dtype`: auto, float32, bfloat16 or float16. "auto" keeps the quantized weights of GGUF, GPTQ and AWQ files packed
      where a kernel reads them.
    - `quantize`: "int8" or "int4" rounds weights of any kind to 8 or 4 bits.
    - `kv_cache`: "int8" keeps the keys and values of attention in 8 bits; "auto" in the type that weights compute in.
    - `template`: the name of one of the model's chat templates, or a file with another.
    - `context_length`: the longest text in tokens. The weights and the KV cache of such a text must fit in memory; this
      is checked before weights are read.
    - `edits`: files or names of edits made by `llm edit`, applied to the weights.
    - `tensor_parallel`: split each layer over this many processes, one for each GPU, or on one CPU.
    - `pipeline_parallel`: give each of this many processes some of the layers.
    - `progress`: called with the bytes of weights read so far, and all of them.

    Raises:
        ModelNotFoundError: no such model, or it could not be fetched.
        CheckpointError: its files are broken, contradict each other, or are of an unsupported kind; or an edit is not
            one of this model.
        OutOfMemoryError: the model does not fit in memory.
        UsageError: there is no such chat template, edit or KV cache, or the model cannot be quantized this way.
    """
    files = [find_edit(str(edit)) for edit in edits]
    checkpoint = open_checkpoint(resolve(None if name_or_path is None else str(name_or_path)))
    return load_checkpoint(
        checkpoint,
        device=device,
        dtype=dtype,
        quantize=quantize,
        kv_cache=kv_cache,
        template=template,
        context_length=context_length,
        edits=read_edits(checkpoint, files),
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        progress=progress,
    )


def load_checkpoint(
    checkpoint: Checkpoint,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    kv_cache: str = "auto",
    template: str | None = None,
    context_length: int | None = None,
    edits: Sequence[Edit] = (),
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    readable: bool = False,
    may_quantize: bool = True,
    heavy: int = _HEAVY,
    large: int = _LARGE,
    tell: Callable[[str], None] = warn,
) -> LoadedModel:
    """Like `load`, for a checkpoint whose headers have been read.

    - `threads`: those of each of several ranks on a CPU; None: the cores divided by the ranks.
    - `readable`: by default, keep weights in a dtype in which the readable model is fast; for callers that compute only
      with that model.
    - `may_quantize`: the caller can quantize, which the error for a model that does not fit then recommends.
    - `heavy`: bytes of dense weights from which on a note recommends quantization for faster replies.
    - `large`: bytes of weights above which the tokenizer is checked before weights are read.
    - `tell`: called with a sentence when a kernel fails and slower code replaces it.
    """
    check_template_file(template)
    checkpoint = replace(checkpoint, config=with_kv_cache(checkpoint.config, kv_cache))
    where = choose_device(device)
    kind = choose_dtype(dtype, where, checkpoint.stored_dtype())
    ranks = tensor_parallel * pipeline_parallel
    split = ranks > 1
    if tensor_parallel > 1 and pipeline_parallel > 1:
        raise UsageError("A model is split into layers or within its layers, not both; give --tp or --pp.")
    if split and edits:
        raise UsageError("A model that is split over ranks cannot be edited; merge the edit first: llm edit merge.")
    reason = f"on {ranks} ranks" if split else why_readable(checkpoint.config, where)
    packing = _packing(checkpoint, where, dtype, quantize, readable=readable, split=split)
    # The tokenizer is built while the weights are read.
    with ThreadPoolExecutor(max_workers=1) as pool:
        text = pool.submit(checkpoint.read_text_parts)
        if sum(map(checkpoint.stored_bytes, checkpoint.sources)) > large:
            # Reading the weights takes much longer than waiting for the tokenizer.
            _check_vocabulary(checkpoint, text.result())
        # Threads write to the parameters, which inference mode in the caller would forbid.
        with torch.inference_mode(mode=False):
            if split:
                from llmcli.distributed.load import SplitRequest, load_split

                request = SplitRequest(ranks, pipeline_parallel > 1, where, kind, packing, context_length, threads)
                model: Transformer = load_split(checkpoint, request, progress)
            else:
                model = load_weights(
                    checkpoint,
                    where,
                    kind,
                    progress,
                    packing=packing,
                    context=context_length,
                    may_pack=may_quantize and where.type in _PACKED_ON,
                )
        parts = text.result()
    _check_vocabulary(checkpoint, parts)
    model.vocabulary = parts.tokenizer.vocab_size
    apply_edits(model, edits)
    chosen, text_notes = parts.template(template), parts.notes
    if chosen is not None and NO_STOP_TOKEN in text_notes:
        text_notes = turn_end(parts.tokenizer, chosen).notes(text_notes)
    return LoadedModel(
        name=checkpoint.name,
        source=checkpoint.path,
        config=checkpoint.config,
        model=model,
        tokenizer=parts.tokenizer,
        template=chosen,
        declared_stop_ids=parts.stop_ids,
        generation_defaults=parts.generation_defaults,
        notes=checkpoint.notes
        + text_notes
        + (_hint(model, heavy) if packing == "stored" else ())
        + tuple(f"Edited: {edit.prompt.rstrip()} -> {edit.target.strip()}." for edit in edits),
        packing=packing,
        why_readable=reason,
        edits=tuple(edits),
        tell=tell,
    )


def check_copies(
    checkpoint: Checkpoint,
    copies: int,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    kv_cache: str = "auto",
    context_length: int | None = None,
) -> None:
    """Check that memory is free for `copies` processes, each of which loads the model with `load_checkpoint`.

    Raises:
        OutOfMemoryError: it is not; the message says how many fit.
        UsageError: there is no such device, dtype or KV cache, or the model cannot be quantized this way.
    """
    checkpoint = replace(checkpoint, config=with_kv_cache(checkpoint.config, kv_cache))
    where = choose_device(device)
    kind = choose_dtype(dtype, where, checkpoint.stored_dtype())
    packing = _packing(checkpoint, where, dtype, quantize)
    request = LoadRequest(where, kind, packing, context_length)
    memory_estimate.check_copies(meta_model(checkpoint.config), checkpoint, request, copies)


def with_kv_cache(config: ModelConfig, kv_cache: str) -> ModelConfig:
    """`config` with the KV cache of `--kv-cache`: "int8", or "auto" for the type that weights compute in.

    Raises:
        UsageError: it is neither.
    """
    if kv_cache not in ("auto", "int8"):
        raise UsageError(f"Keys and values cannot be kept in {kv_cache!r}; use auto or int8.")
    return replace(config, int8_cache=kv_cache == "int8")


def why_readable(config: ModelConfig, device: torch.device) -> str:
    """The reason why no kernel can run a model of `config` on `device`; empty if one can."""
    return why_no_kernel(config, device) or ""


def _check_vocabulary(checkpoint: Checkpoint, parts: TextParts) -> None:
    if parts.tokenizer.vocab_size > checkpoint.config.vocab_size:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer has {parts.tokenizer.vocab_size} tokens, "
            f"but the model has embeddings for {checkpoint.config.vocab_size}."
        )


def _hint(model: Transformer, heavy: int) -> tuple[str, ...]:
    dense = sum(parameter.nbytes for parameter in model.parameters())
    if dense < heavy:
        return ()
    return (
        f"The weights take {size(dense)}, and the fewer bytes, the faster each token: --quantize int8 halves "
        "them, --quantize int4 leaves a third. Each start then packs them anew, which takes longer than a short reply "
        "saves; it pays for a chat or long replies.",
    )


def _packing(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: str,
    quantize: str | None,
    *,
    readable: bool = False,
    split: bool = False,
) -> Packing | None:
    """The packing of weights for --quantize, or the default one where a kernel reads it.

    Of a model that is `split` over ranks no kernel reads it, but packed weights take less memory.
    """
    packing = choose_packing(quantize, device)
    if packing is None and dtype == "auto" and not readable and (split or not why_readable(checkpoint.config, device)):
        packing = default_packing(checkpoint, device)
    return packing


def choose_packing(quantize: str | None, device: torch.device) -> Packing | None:
    """The packing of weights for `--quantize`; None without it.

    Raises:
        UsageError: `quantize` is neither int8 nor int4, or `device` has no kernel for packed weights.
    """
    match quantize:
        case None:
            return None
        case "int8" | "int4":
            if device.type not in _PACKED_ON:
                raise UsageError(
                    f"Weights can be quantized for CPU and CUDA only, not for {device}; give --device cpu too."
                )
            return quantize
        case _:
            raise UsageError(f"Weights cannot be quantized to {quantize!r}; use int8 or int4.")
