"""The result of a benchmark, to be drawn."""

from __future__ import annotations

from llmcli.bench.results import (
    BenchResult,
    BenchSettings,
    Failure,
    MachineInfo,
    Measure,
    Measurement,
    ModelFacts,
    summarize,
)

MIB = 1 << 20
BYTES = {0: 100_000_000, 1024: 120_000_000}
VALUES: dict[tuple[str, Measure, int | None], tuple[float, ...]] = {
    ("machine", "import_torch_s", None): (1.4, 1.5),
    ("machine", "import_torch_bytes", None): (219 * MIB,),
    ("machine", "bandwidth_bytes_per_s", None): (40e9, 50e9, 45e9),
    ("llmcli", "first_token_cold_s", None): (2.0, 2.4),
    ("llmcli", "first_token_warm_s", None): (1.8, 1.9),
    ("llmcli", "exit_warm_s", None): (1.95,),
    ("llmcli", "prefill_tokens_per_s", 128): (1000.0, 900.0),
    ("llmcli", "prefill_tokens_per_s", 2048): (1012.0, 998.0),
    ("llmcli", "decode_tokens_per_s", 0): (360.0, 342.0),
    ("llmcli", "decode_tokens_per_s", 1024): (250.0, 260.0),
    ("llmcli", "default_decode_tokens_per_s", 0): (320.0, 300.0),
    ("llmcli", "peak_memory_short_bytes", None): (330 * MIB,),
    ("llmcli", "peak_memory_bytes", None): (400 * MIB,),
    ("llama.cpp", "first_token_warm_s", None): (0.2, 0.22),
    ("llama.cpp", "prefill_tokens_per_s", 128): (300.0, 310.0),
    ("llama.cpp", "decode_tokens_per_s", 0): (99.9, 117.0),
    ("llama.cpp", "default_decode_tokens_per_s", 0): (98.0, 110.0),
    ("llama.cpp", "peak_memory_short_bytes", None): (165 * MIB,),
    ("transformers", "first_token_warm_s", None): (9.0,),
    ("transformers", "prefill_tokens_per_s", 128): (900.0, 910.0),
    ("transformers", "decode_tokens_per_s", 0): (25.0, 25.4),
    ("transformers", "peak_memory_short_bytes", None): (1100 * MIB,),
}
MEASUREMENTS = tuple(
    Measurement(arm, round_, measure, size, value)
    for (arm, measure, size), values in VALUES.items()
    for round_, value in enumerate(values, 1)
)
RESULT = BenchResult(
    date="2026-01-02T03:04:05+00:00",
    model=ModelFacts("Smol\x1bLM", "/m.gguf", "GGUF", 134_515_008, 8192, 92 * MIB, 96_000_000, BYTES),
    machine=MachineInfo("A processor", 2, 4, 16 << 30, None, "Linux x86_64"),
    versions={"llmcli": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
    settings=BenchSettings("cpu", "auto", 2, 2, (128, 2048), (0, 1024), 64),
    arms={"llmcli": "kernel, 2 threads", "llama.cpp": "as stored", "transformers": "bfloat16"},
    summaries=summarize(MEASUREMENTS, BYTES),
    measurements=MEASUREMENTS,
    failures=(Failure("transformers", 2, "the\x1breason"),),
    notes=("Left out: reading 512 tokens; the model's context holds 300.",),
)
