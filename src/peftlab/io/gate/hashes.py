"""Step 10: what was audited, as hashes that anybody can compute again.

The tree hash is that of the lines of ``sha256sum`` over the opened files, in order of their names:
``sha256sum adapter_config.json adapter_model.safetensors | sha256sum``.
"""

from __future__ import annotations

import hashlib
import json

from peftlab.core.errors import InputRejected
from peftlab.core.findings import Check
from peftlab.io.artefact import Artefact
from peftlab.io.gate.allowed import CONFIGS
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded
from peftlab.io.strict_json import parse_json


def check_hashes(artefact: Artefact, limits: Limits) -> Check:
    """Write down the hashes of all opened files, of the whole, and of the config's meaning."""
    facts = {
        "files": {name: file.sha256 for name, file in artefact.files.items()},
        "tree_sha256": tree_hash(artefact),
        "config_sha256": config_hash(artefact, limits),
    }
    return concluded("gate-hashes", facts=facts)


def tree_hash(artefact: Artefact) -> str:
    """Return one hash for all opened files and their names."""
    lines = [f"{file.sha256}  {name}\n" for name, file in sorted(artefact.files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def config_hash(artefact: Artefact, limits: Limits) -> str | None:
    """Return a hash of the config that spaces and the order of keys do not change.

    None without a config, or when it is no JSON: the next step says so.
    """
    name = next((name for name in CONFIGS if name in artefact.files), None)
    if name is None or artefact.files[name].size > limits.json_bytes:
        return None
    try:
        config = parse_json(artefact.read(name), name)
        text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    except (InputRejected, RecursionError):
        return None
    return hashlib.sha256(text.encode()).hexdigest()
