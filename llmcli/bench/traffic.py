"""What one token reads of a model: the least that any program must fetch from memory to write it."""

from __future__ import annotations

from llmcli.bench.plan import Sizes
from llmcli.bench.results import ModelFacts
from llmcli.checkpoint.opened import Checkpoint, meta_model
from llmcli.inspection.accounting import account

_KV_VALUE_BYTES = 2


def model_facts(checkpoint: Checkpoint, sizes: Sizes) -> ModelFacts:
    """Counted from the headers; no weight is read."""
    config, counted = checkpoint.config, account(checkpoint)
    weights = weight_bytes_per_token(checkpoint)
    return ModelFacts(
        name=checkpoint.name,
        path=str(checkpoint.path),
        format=checkpoint.format,
        parameters=counted.parameters,
        context_length=config.context_length,
        stored_bytes=sum(counted.stored_bytes.values()),
        weight_bytes_per_token=weights,
        bytes_per_token={
            context: weights + config.kv_bytes(max(context, 1) + sizes.tokens // 2, _KV_VALUE_BYTES)
            for context in sizes.contexts
        },
    )


def weight_bytes_per_token(checkpoint: Checkpoint) -> int:
    """Bytes in the files of all weights that a token is multiplied with."""
    config = checkpoint.config
    total = 0
    for name, _ in meta_model(config).named_parameters():
        if name.startswith("embed_") and not (name == "embed_tokens.weight" and config.tie_embeddings):
            continue  # one row of it
        stored = checkpoint.stored_bytes(name)
        if ".mlp.experts." in name and (experts := config.layers[int(name.split(".")[1])].experts) is not None:
            stored = stored * experts.chosen // experts.count
        total += stored
    return total
