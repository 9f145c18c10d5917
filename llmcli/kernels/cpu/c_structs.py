"""The structures of `csrc/abi.h`, field by field."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_float, c_int, c_int32, c_int64, c_void_p

ABI = 21

FORMATS = {"float32": 0, "bfloat16": 1, 4: 2, 8: 3, "int8_rows": 4}
NO_NORM, RMS_NORM, LAYER_NORM, SCALED = range(4)
DELTA, STATE_SPACE, SHORT_CONVOLUTION, SELECTIVE_SCAN, GATED_UNIT = range(1, 6)


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class Matrix(ctypes.Structure):
    """Dense rows or packed blocks, one matrix or a stack of them."""

    _fields_ = (
        *_fields(c_void_p, "data bias"),
        ("stride", c_int64),
        *_fields(c_int32, "format rows columns count"),
    )


class Table(ctypes.Structure):
    """A matrix of embeddings, or a table of them in the blocks of its file."""

    _fields_ = (("matrix", Matrix), ("blocks", c_void_p), ("row_bytes", c_int64), ("encoding", c_int32))


class Norm(ctypes.Structure):
    """A norm, a constant factor, or neither."""

    _fields_ = (
        *_fields(c_void_p, "weight bias"),
        *_fields(c_float, "eps factor"),
        *_fields(c_int32, "kind each_head"),
    )


class Experts(ctypes.Structure):
    """A mixture of experts."""

    _fields_ = (
        *_fields(Matrix, "router gate_up down"),
        *_fields(c_void_p, "selection_bias expert_scale"),
        *_fields(
            c_int32, "count chosen size score normalized scales_input groups groups_chosen best_two clamped"
        ),
        *_fields(c_float, "scale alpha limit softcap mixing_range shared_scale"),
        ("shared", c_int32),
        *_fields(Matrix, "shared_gate latent_in latent_out"),
        ("own_norms", c_int32),
        *_fields(Norm, "input_norm output_norm shared_norm shared_output_norm"),
    )  # fmt: skip


class Latent(ctypes.Structure):
    """Latent attention."""

    _fields_ = (
        *_fields(Matrix, "query to_keys to_values"),
        *_fields(Norm, "query_norm norm"),
        *_fields(c_int32, "rank nope rope value_dim"),
    )


class Streams(ctypes.Structure):
    """How a layer predicts and corrects several residual streams."""

    _fields_ = (*_fields(c_void_p, "router prediction correction scale"), ("router_norm", Norm))


class RecurrentMixer(ctypes.Structure):
    """A gated delta net, Mamba, RG-LRU or a short convolution, in place of attention or beside it."""

    _fields_ = (
        *_fields(Matrix, "in_proj out_proj"),
        *_fields(
            c_int32, "kind heads groups key_dim value_dim width channels tiled sigmoid_gate norm_first channel_decay"
        ),
        *_fields(c_float, "safe_decay strength_scale min_step max_step"),
        *_fields(Matrix, "gate decay strength gate_left decay_left"),
        *_fields(c_void_p, "conv conv_bias rate step_bias skip"),
        *_fields(Norm, "norm step_norm write_norm read_norm"),
    )


class Layer(ctypes.Structure):
    """One layer."""

    _fields_ = (
        *_fields(Norm, "input_norm second_norm attention_output feed_forward_output q_norm k_norm v_norm"),
        *_fields(Norm, "attention_inner feed_forward_inner"),
        *_fields(Matrix, "q k v o gate up down attention_gate"),
        *_fields(c_float, "xielu_above xielu_below"),
        *_fields(c_void_p, "sinks slopes"),
        ("experts", Experts),
        *_fields(Matrix, "per_layer_gate per_layer_down"),
        ("per_layer_norm", Norm),
        ("altup", Streams),
        *_fields(Matrix, "laurel_left laurel_right"),
        ("laurel_norm", Norm),
        *_fields(c_void_p, "edit_reads edit_writes"),
        *_fields(c_int32, "edits heads kv_heads key_dim value_dim"),
        ("latent", Latent),
        ("recurrence", RecurrentMixer),
        *_fields(c_int32, "inner normed_sums sparse"),
        ("sparsity", c_float),
        *_fields(c_int32, "rope window chunk scaling_interval scaling_offset"),
        *_fields(c_float, "scaling_beta scale output_scale"),
    )


class PerLayer(ctypes.Structure):
    """Embeddings of each token for every layer."""

    _fields_ = (
        ("table", Table),
        ("projection", Matrix),
        ("norm", Norm),
        *_fields(c_int32, "size tokens"),
        *_fields(c_float, "table_scale projection_scale"),
    )


class Model(ctypes.Structure):
    """Sizes, options and the matrices outside of the layers."""

    _fields_ = (
        *_fields(c_int32, "layers hidden vocabulary streams first_sharing capacity"),
        *_fields(
            c_int32,
            "activation gated parallel shared_norm qk_norm cache_format input_format gate_per_head gate_softplus "
            "rounded_biases",
        ),
        *_fields(c_float, "clip softcap embed_scale logit_scale logit_softcap"),
        *_fields(Matrix, "embedding positions head"),
        *_fields(Norm, "embed_norm norm"),
        ("head_dense", Matrix),
        ("head_norm", Norm),
        ("head_activation", c_int32),
        ("per_layer", PerLayer),
        *_fields(ctypes.POINTER(Matrix), "spread merge"),
        ("layer", ctypes.POINTER(Layer)),
    )


class Segment(ctypes.Structure):
    """One layer's part of the cache."""

    _fields_ = (
        *_fields(c_void_p, "keys values"),
        *_fields(c_int64, "first size"),
        *_fields(c_void_p, "tail memory before"),
    )


class Rotation(ctypes.Structure):
    """Cosines and sines for the tokens of a step."""

    _fields_ = (*_fields(c_void_p, "cos sin"), ("half", c_int64))


class Pass(ctypes.Structure):
    """The arguments of one forward pass."""

    _fields_ = (
        ("ids", c_void_p),
        ("segments", ctypes.POINTER(Segment)),
        ("rotations", ctypes.POINTER(Rotation)),
        ("logits", c_void_p),
        ("start", c_int64),
        *_fields(c_void_p, "positions rotated"),
        *_fields(c_int32, "tokens only_last greatest skipped continued"),
    )


class Choice(ctypes.Structure):
    """How tokens are sampled."""

    _fields_ = (
        *_fields(c_double, "temperature top_p min_p"),
        *_fields(c_void_p, "uniforms ends"),
        *_fields(c_int32, "top_k vocabulary end_count alarm"),
    )


class Packing(ctypes.Structure):
    """How rows of a matrix are packed."""

    _fields_ = (("grid", c_void_p), *_fields(c_int32, "format kept columns"))


def float_at(address: int, place: int) -> float:
    """Element `place` of the float32 array at `address`."""
    return c_float.from_address(address + place * ctypes.sizeof(c_float)).value


def declare(library: ctypes.CDLL) -> str:
    """Declare the functions' types to ctypes; returns the instruction set that the library uses.

    Raises:
        ValueError: the library was compiled with other structures.
        AttributeError: a function is missing.
    """
    library.llm_abi.argtypes, library.llm_abi.restype = [c_int], c_int64
    expected = [ABI, *map(ctypes.sizeof, (Model, Layer, Pass, Segment, Rotation, Choice, Packing))]
    if [library.llm_abi(index) for index in range(len(expected))] != expected:
        raise ValueError("its structures differ from those in c_structs.py")
    library.llm_new.restype = c_void_p
    library.llm_new.argtypes = [ctypes.POINTER(Model), c_int, c_void_p, c_int, c_int]
    library.llm_step.argtypes, library.llm_step.restype = [c_void_p, ctypes.POINTER(Pass)], c_int
    library.llm_generate.restype = c_int
    library.llm_generate.argtypes = [c_void_p, ctypes.POINTER(Pass), ctypes.POINTER(Choice), c_int, c_void_p]
    library.llm_generate_rows.restype = c_int
    library.llm_generate_rows.argtypes = [
        c_void_p, ctypes.POINTER(Pass), ctypes.POINTER(Choice), c_void_p, c_int, c_void_p, c_void_p,
    ]  # fmt: skip
    library.llm_free.argtypes, library.llm_free.restype = [c_void_p], None
    library.llm_pack.restype = None
    library.llm_pack.argtypes = [
        ctypes.POINTER(Packing), c_void_p, c_int64, c_void_p, c_int, c_int64, c_void_p,
    ]  # fmt: skip
    library.llm_isa.argtypes, library.llm_isa.restype = [], ctypes.c_char_p
    isa: bytes = library.llm_isa()
    return isa.decode()
