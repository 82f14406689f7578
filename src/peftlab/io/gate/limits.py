"""How much of an artefact the gate looks at before it says no.

Ours, for steps 2, 4 and 7 of the gate. Every limit can be raised by the operator, none by the
artefact.
"""

from __future__ import annotations

from peftlab.core.options import Options, option

KIB, MIB, GIB = 2**10, 2**20, 2**30


class Limits(Options):
    """Limits of the gate; what exceeds one stops there.

    Examples:
        >>> Limits().files
        64
        >>> Limits(files=8, json_depth=4).json_depth
        4
    """

    files: int = option(64, "most files", source="ours", ge=1, le=10_000)
    total_bytes: int = option(2 * GIB, "most bytes of all files", source="ours", ge=1)
    file_bytes: int = option(1 * GIB, "most bytes of one file", source="ours", ge=1)
    depth: int = option(4, "deepest folder of a file name", source="ours", ge=1, le=32)
    name_bytes: int = option(255, "longest part of a file name, UTF-8", source="ours", ge=1, le=255)
    zip_ratio: int = option(100, "most bytes that one packed byte becomes", source="ours", ge=1)
    json_bytes: int = option(256 * KIB, "largest JSON file, indexes apart", source="ours", ge=2)
    json_depth: int = option(12, "deepest nesting of JSON", source="ours", ge=1, le=100)
    header_bytes: int = option(
        8 * MIB, "largest safetensors header", source="ours", ge=2, le=64 * MIB
    )
    tensors: int = option(16_384, "most tensors of one file", source="ours", ge=1)
    metadata_keys: int = option(64, "most metadata keys of one file", source="ours", ge=0)
    metadata_bytes: int = option(4 * KIB, "longest metadata value", source="ours", ge=0)
    findings: int = option(50, "most findings that one step writes down", source="ours", ge=1)
