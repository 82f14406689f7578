"""Step 7: the headers of all safetensors files, by our own parser."""

from __future__ import annotations

from peftlab.core.errors import InputRejected
from peftlab.core.findings import Check, Severity, rule
from peftlab.io.artefact import Artefact, TensorInfo
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded
from peftlab.io.header import header_length, parse_header

HEADER = rule(
    "GATE-HEADER",
    Severity.HIGH,
    "a safetensors file that is not sound",
    why="a library would read past its end, or read another tensor than the checks saw",
    fix="get the file again from its publisher and compare the checksum",
)


def check_headers(artefact: Artefact, limits: Limits) -> Check:
    """Check all headers and fill ``artefact.tensors`` and ``artefact.metadata``."""
    del limits
    for name, file in artefact.files.items():
        if not name.endswith(".safetensors"):
            continue
        try:
            header = parse_header(file.view, name)
        except InputRejected as error:
            finding = HEADER.found(name, str(error.got))
            return concluded("gate-headers", [finding], stop=True)
        start = 8 + header_length(file.view, file.size, name)
        artefact.metadata[name] = header.pop("__metadata__", {})
        for tensor, entry in header.items():
            first, last = entry["data_offsets"]
            artefact.tensors[tensor] = TensorInfo(
                name, entry["dtype"], tuple(entry["shape"]), start + first, start + last
            )
    return concluded("gate-headers", facts={"tensors": len(artefact.tensors)})
