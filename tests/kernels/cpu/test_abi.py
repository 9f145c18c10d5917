"""The structures and numbers shared by Python and C are the same on both sides."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmcli.checkpoint.tensors.dtypes import LAYOUTS
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import build, c_structs, repack, support

STRUCTURES: list[type[ctypes.Structure]] = [
    c_structs.Matrix, c_structs.Table, c_structs.Norm, c_structs.Experts, c_structs.Latent, c_structs.Streams,
    c_structs.RecurrentMixer, c_structs.Layer, c_structs.PerLayer, c_structs.Model, c_structs.Segment,
    c_structs.Rotation, c_structs.Pass, c_structs.Choice, c_structs.Packing,
]  # fmt: skip
RECURRENCES = ("NO_RECURRENCE", "DELTA", "STATE_SPACE", "SHORT_CONVOLUTION", "SELECTIVE_SCAN", "GATED_UNIT")


class Field(NamedTuple):
    """A member of a structure in the layout of Python or C."""

    name: str
    kind: str
    """`signed`, `unsigned`, `float`, `pointer`, `pointer to S`, or the name of a structure."""
    offset: int
    """In bytes."""
    size: int
    """In bytes."""


def header() -> str:
    return (build._SOURCES / "abi.h").read_text()


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def declared_fields(text: str) -> dict[str, list[str]]:
    """The names of the members of each structure of a header, in their order."""
    structures = re.findall(r"typedef struct \{(.*?)\} (\w+);", without_comments(text), flags=re.DOTALL)
    return {
        name: [
            re.sub(r"^.*[\s*]", "", declarator.strip())
            for declaration in body.split(";")
            if declaration.strip()
            for declarator in declaration.split(",")
        ]
        for body, name in structures
    }


def c_layout(text: str, folder: Path) -> dict[str, list[Field]]:
    """The layout that the compiler gives a header's structures, printed by a small program.

    The last entry of a structure is its whole size.
    """
    try:
        compiler = build._compiler()
    except NoKernelError as error:
        pytest.skip(str(error))
    declared = declared_fields(text)
    kinds = [f'{integer}: "signed"' for integer in ("int8_t", "int16_t", "int32_t", "int64_t")]
    kinds += [f'u{integer}: "unsigned"' for integer in ("int8_t", "int16_t", "int32_t", "int64_t")]
    kinds += ['float: "float"', 'double: "float"', *(f'{name}: "{name}"' for name in declared)]
    kinds += [f'{const}{name} *: "pointer to {name}"' for name in declared for const in ("", "const ")]
    lines = [
        f'    printf("{name} {field} %zu %zu %s\\n", offsetof({name}, {field}), sizeof(({name} *)0)->{field}, '
        f"KIND((({name} *)0)->{field}));"
        for name, fields in declared.items()
        for field in fields
    ]
    lines += [f'    printf("{name} sizeof 0 %zu %s\\n", sizeof({name}), "size");' for name in declared]
    (folder / "abi.h").write_text(text)
    (folder / "layout.c").write_text(
        '#include "abi.h"\n#include <stddef.h>\n#include <stdio.h>\n'
        f'#define KIND(field) _Generic((field), {", ".join(kinds)}, default: "pointer")\n'
        "int main(void) {\n" + "\n".join(lines) + "\n    return 0;\n}\n"
    )
    program = folder / "layout"
    command = [compiler, "-std=gnu11", "-Wall", "-Werror", str(folder / "layout.c"), "-o", str(program)]
    subprocess.run(command, check=True, timeout=120)
    printed = subprocess.run([str(program)], capture_output=True, text=True, check=True, timeout=20).stdout
    layout: dict[str, list[Field]] = {}
    for line in printed.splitlines():
        name, field, offset, size, kind = line.split(maxsplit=4)
        layout.setdefault(name, []).append(Field(field, kind, int(offset), int(size)))
    return layout


def python_layout(structure: type[ctypes.Structure]) -> list[Field]:
    fields = []
    for name, kind, *_ in structure._fields_:
        place = getattr(structure, name)
        fields.append(Field(name, python_kind(kind), place.offset, place.size))
    return [*fields, Field("sizeof", "size", 0, ctypes.sizeof(structure))]


def python_kind(kind: Any) -> str:
    if kind is ctypes.c_void_p:
        return "pointer"
    if issubclass(kind, ctypes._Pointer):
        return f"pointer to {kind._type_.__name__}"
    if issubclass(kind, ctypes.Structure):
        return str(kind.__name__)
    if kind in (ctypes.c_float, ctypes.c_double):
        return "float"
    return "signed" if kind(-1).value < 0 else "unsigned"


def differing(text: str, folder: Path) -> list[str]:
    """The names of the structures whose layout in Python differs from that of a header."""
    in_c = c_layout(text, folder)
    in_python = {structure.__name__: python_layout(structure) for structure in STRUCTURES}
    return sorted(name for name in in_c.keys() | in_python.keys() if in_c.get(name) != in_python.get(name))


def test_every_structure_has_the_same_layout_in_python_and_c(tmp_path: Path) -> None:
    assert differing(header(), tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "structures"),
    [
        pytest.param("int64_t half;", "int64_t half_size;", ["Rotation"], id="renamed"),
        pytest.param("temperature, top_p, min_p;", "temperature, min_p, top_p;", ["Choice"], id="reordered"),
        pytest.param("int32_t edits;", "uint32_t edits;", ["Layer"], id="unsigned"),
        pytest.param("float scaling_beta;", "int32_t scaling_beta;", ["Layer"], id="float to integer"),
        pytest.param("int64_t first, size;", "int64_t first; int32_t size;", ["Segment"], id="narrower"),
        pytest.param("int64_t half;", "const float *half;", ["Rotation"], id="integer to pointer"),
        pytest.param("const Rotation *rotations;", "const Segment *rotations;", ["Pass"], id="pointer to another"),
        pytest.param("Norm norm;", "Norm norm; Norm last;", ["Model"], id="added"),
        pytest.param("int32_t kind, each_head;", "int32_t kind;", ["Norm"], id="removed"),
        pytest.param("#endif", "typedef struct { int32_t x; } Another;\n#endif", ["Another"], id="structure added"),
    ],
)  # fmt: skip
def test_a_changed_header_is_detected(tmp_path: Path, old: str, new: str, structures: list[str]) -> None:
    changed = header().replace(old, new)
    assert changed != header()
    assert set(structures) <= set(differing(changed, tmp_path))


def test_versions_and_enumerations_are_the_same() -> None:
    text = without_comments(header())
    version = re.search(r"#define LLM_ABI (\d+)", text)
    assert version is not None
    assert int(version[1]) == c_structs.ABI
    enums = [[name.strip() for name in names.split(",")] for names in re.findall(r"enum \{(.*?)\};", text, re.DOTALL)]
    formats = {"float32": "FLOAT32", "bfloat16": "BFLOAT16", 4: "PACKED4", 8: "PACKED8", "int8_rows": "INT8_ROWS"}
    assert enums == [
        [formats[name] for name, _ in sorted(c_structs.FORMATS.items(), key=lambda item: item[1])],
        sorted(("NO_NORM", "RMS_NORM", "LAYER_NORM", "SCALED"), key=lambda name: int(getattr(c_structs, name))),
        [name.upper() for name in support.ACTIVATIONS],
        [f"QK_{(name or 'plain').upper()}" for name in support.QK_NORMS],
        [f"BY_{name.upper()}" for name in support.SCORES],
        [f"STORED_{name}" for name in support.ENCODINGS],
        sorted(RECURRENCES, key=lambda name: int(getattr(c_structs, name, 0))),
    ]


def test_stored_formats_have_the_same_numbers() -> None:
    text = without_comments((build._SOURCES / "repack" / "pack.h").read_text())
    names = re.search(r"enum \{(.*?)\};", text, re.DOTALL)
    assert names is not None
    assert names[1].replace(",", " ").split() == [*repack._STORED]


def test_stored_formats_have_the_sizes_of_their_encodings() -> None:
    for name, sizes in repack._STORED.items():
        assert sizes == (LAYOUTS[name].block_size, LAYOUTS[name].block_bytes)
