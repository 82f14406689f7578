"""The gate: what must hold of a model or adapter from outside before a library sees a byte of it.

reference -> ``open_artefact`` -> Artefact -> ``inspect`` -> checks; ``check_model`` and
``check_adapter`` are the short form for folders that are loaded to be tuned or served.
"""

from peftlab.io.gate.folders import (
    ADAPTER_TYPES,
    ADAPTER_WEIGHTS,
    INDEX,
    MODEL_WEIGHTS,
    PICKLES,
    check_adapter,
    check_model,
)
from peftlab.io.gate.inspection import inspect
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.source import open_artefact

__all__ = [
    "ADAPTER_TYPES",
    "ADAPTER_WEIGHTS",
    "INDEX",
    "MODEL_WEIGHTS",
    "PICKLES",
    "Limits",
    "check_adapter",
    "check_model",
    "inspect",
    "open_artefact",
]
