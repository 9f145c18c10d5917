"""Options that choose the model and how it is computed."""

import os
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from llmcli.commands.shared.completion import DEVICES, DTYPES, EDITS, KV_CACHES, MODELS, QUANTIZED
from llmcli.commands.shared.options.flags import MODEL, RUNNING, flag

Readable: TypeAlias = Annotated[
    bool,
    flag(
        "--readable",
        env=False,
        panel=RUNNING,
        help="Compute with the readable PyTorch model, not the fast path.",
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """The model to load, its dtype and quantization, and the device."""

    model: Annotated[
        str | None,
        flag(
            "--model",
            "-m",
            metavar="NAME|PATH",
            panel=MODEL,
            autocompletion=MODELS,
            help="A folder, .gguf file, pulled model or hub name owner/name. Default: the starter.",
        ),
    ] = None
    edit: Annotated[
        list[str] | None,
        flag(
            "--edit",
            "-e",
            metavar="NAME|FILE",
            panel=MODEL,
            autocompletion=EDITS,
            help="Apply an edit made by llm edit; repeatable.",
        ),
    ] = None
    quantize: Annotated[
        str | None,
        flag(
            "--quantize",
            metavar="int8|int4",
            panel=MODEL,
            autocompletion=QUANTIZED,
            help="Round the weights: less memory, faster.",
        ),
    ] = None
    dtype: Annotated[
        str,
        flag(
            "--dtype",
            panel=MODEL,
            autocompletion=DTYPES,
            help="Type of the weights: auto (default), float32, bfloat16 or float16.",
            metavar="TYPE",
            show_default=False,
        ),
    ] = "auto"
    context: Annotated[
        int | None,
        flag("--context", metavar="N", panel=MODEL, help="Limit prompt plus reply to N tokens."),
    ] = None
    kv_cache: Annotated[
        str,
        flag(
            "--kv-cache",
            metavar="auto|int8",
            panel=RUNNING,
            autocompletion=KV_CACHES,
            help="int8: keep keys and values in 8 bits, for long texts. Default: auto, as the weights compute.",
            show_default=False,
        ),
    ] = "auto"
    device: Annotated[
        str,
        flag(
            "--device",
            panel=RUNNING,
            autocompletion=DEVICES,
            help="Compute on auto (default), cpu, cuda, cuda:N or mps.",
            metavar="NAME",
            show_default=False,
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        flag(
            "--threads",
            metavar="N",
            min=1,
            max=1024,
            panel=RUNNING,
            help="Number of CPU threads. Default: one per physical core.",
        ),
    ] = None
    tensor_parallel: Annotated[
        int,
        flag(
            "--tp",
            "-tp",
            metavar="N",
            min=1,
            max=1024,
            panel=RUNNING,
            help="Split the model over N GPUs or processes.",
            show_default=False,
        ),
    ] = 1
    pipeline_parallel: Annotated[
        int,
        flag(
            "--pp",
            "-pp",
            metavar="N",
            min=1,
            max=1024,
            panel=RUNNING,
            help="Split the model's layers over N of them.",
            show_default=False,
        ),
    ] = 1
    readable: Readable = False
    server: Annotated[
        str,
        flag(
            "--server",
            metavar="auto|off|URL",
            panel=RUNNING,
            help="Use a model that llm serve holds. Default: auto, if it is the same; off: load it here.",
            show_default=False,
        ),
    ] = "auto"

    @property
    def ranks(self) -> int:
        """The processes that the model is split over: as asked, or as many as a launcher has started."""
        count = self.tensor_parallel * self.pipeline_parallel
        if count > 1 or not os.environ.get("WORLD_SIZE"):
            return count
        from llmcli.distributed.environment import rank_count

        return rank_count(count, os.environ)
