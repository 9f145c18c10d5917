"""Settings that turn on each filter that no fast path supports."""

from __future__ import annotations

import math
from collections.abc import Mapping

FILTERS: Mapping[str, Mapping[str, object]] = {
    "logit bias": {"logit_bias": ((3, 2.5), (5, -math.inf))},
    "frequency penalty": {"frequency_penalty": 0.7},
    "presence penalty": {"presence_penalty": 0.7},
    "last tokens": {"repeat_penalty": 1.4, "repeat_last_n": 4},
    "dry": {"dry_multiplier": 2.0, "dry_allowed_length": 1},
    "top-n-sigma": {"top_n_sigma": 1.0},
    "dynamic temperature": {"dynatemp_range": 0.7},
    "typical-p": {"typical_p": 0.4},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.02},
}
