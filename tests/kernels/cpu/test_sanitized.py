"""The kernel under AddressSanitizer and UndefinedBehaviorSanitizer, in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

import llmcli

_FLAGS = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
_CODE = f"""
import sys
from itertools import islice
import torch
from llmcli.engine import SamplingParams
from llmcli.kernels.cpu.build import load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.sampling_filters import SamplingRequest
from tests.support.models.sanitized_models import models
from tests.support.kernels.packed_blocks import FORMATS, any_blocks, empty_matrix, packer

for variant in sys.argv[1:]:
    library = load_library(variant, {_FLAGS!r})
    for name in FORMATS:
        for bits in (4, 8):
            matrix = empty_matrix(name, 41, 256, bits=bits)
            packer(variant, {_FLAGS!r}).pack(name, any_blocks(name, 41, 256), matrix, 0, 0, range(40, -1, -1))
    for name, size in (("F32", 4), ("F16", 2), ("BF16", 2)):
        for bits in (4, 8):
            matrix = empty_matrix(name, 41, 90, bits=bits)
            packer(variant, {_FLAGS!r}).pack(name, torch.full((41, 90, size), 60, dtype=torch.uint8), matrix, 0, 0)
    # The variants differ in products with packed weights and in the width of vectors.
    for model in islice(models(), 0 if variant == "native" else 2, None if variant == "native" else 5):
        step = CpuStep(model, threads=3, library=library)
        cache = model.new_cache(capacity=4)
        for size in (1, 2, 16, 5, 13, 16, 1, 7):
            ids = [(cache.length + i) * 7 % 200 for i in range(size)]
            logits = step.forward(ids, cache, only_last=size % 2 == 0)
            assert logits.isfinite().all()
        others = [model.new_cache(capacity=1) for _ in range(15)]
        for turn in range(3):
            assert step.forward_rows([turn, *range(15)], [cache, *others]).isfinite().all()
        for temperature, top_k in ((0.0, 1), (2.0, 40), (2.0, 1000)):
            params = SamplingParams(temperature=temperature, top_k=top_k)
            assert len(step.forward_multi_step(1, cache, SamplingRequest(params, [0.1, 0.9, 0.5], 190, [200]))) == 3
        del step
print("clean")
"""


def _runtime(name: str) -> str:
    """The path of the compiler's sanitizer library; only its name if there is none."""
    found = subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, timeout=20, check=False)
    return found.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="loading the sanitizer needs Linux")
def test_no_bad_access_and_no_undefined_behavior() -> None:
    library = _runtime("libasan.so")
    if not os.path.isabs(library):  # noqa: PTH117
        pytest.skip("this compiler has no AddressSanitizer")
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        # Python leaks memory, and torch's libraries are not tested here.
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "PYTHONPATH": str(Path(llmcli.__file__).parents[1]),
        # Compiling takes most of the time; the library is cached by source and compiler.
        "XDG_CACHE_HOME": str(platformdirs.user_cache_path("llmcli-tests")),
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", _CODE, "native", "avx2", "portable"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.stdout.strip() == "clean", run.stderr[-4000:]
