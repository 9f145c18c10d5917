"""Where Triton's kernels run in tests: on a GPU if there is one, otherwise in the interpreter."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not there for this platform")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
