"""Where fuzzing starts: the hostile artefacts and their twins, and policies of all kinds."""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))

from hostile_artefacts import CONFIG, Traps, adapter_files, safetensors, tensor
from hostile_cases import CASES

LONGEST = 16 * 2**10
NAMES = {
    "header": "adapter_model.safetensors",
    "config": "adapter_config.json",
    "archive": "adapter.zip",
}
POLICIES = (
    b"",
    b'fail_on = "medium"\nrequire_commit = true\n',
    b'required_checks = ["gate-headers", "structure"]\nallowed_licences = ["apache-2.0"]\n',
    b'allowed_peft_types = ["LORA"]\nrequired_base = ["org/base"]\n',
    b'[severity]\nGATE-PICKLE = "critical"\nGATE-EXTRA = { level = "ignore", reason = "ours" }\n',
    b"[limits]\nfiles = 8\njson_depth = 4\ntotal_bytes = 1_000_000\n",
    b'[audit.spectra]\nenergy = 0.9\n[audit."a b"]\nx = [1, 2.5, "y", { z = 1 }]\n',
    b"fail_on = 'nothing'\n",
    b'[severity]\nGATE-EXTRA = "ignore"\n',
    b"a = 1979-05-27T07:32:00Z\nb = inf\nc = nan\nd = 0x10\n",
    b"x = " + b"[" * 200 + b"]" * 200 + b"\n",
    b"a.b.c = 1\na.b.d = 2\n[[t]]\nk = '''x'''\n[[t]]\nk = \"\"\"\\\n  y\"\"\"\n",
    b"\xff\xfe",
)


# names of the formats that adapters come in, each with the shape of its tensor
FORMATS = (
    {"lora_unet_down_0.lora_down.weight": (2, 4), "lora_unet_down_0.lora_up.weight": (4, 2),
     "lora_unet_down_0.alpha": (1,), "lora_te_text_model.lora_down.weight": (2, 4, 3, 3),
     "lora_te_text_model.lora_up.weight": (4, 2, 1, 1)},
    {"unet.mid.to_q.lora.down.weight": (2, 4), "unet.mid.to_q.lora.up.weight": (4, 2),
     "unet.up.processor.to_k_lora.down.weight": (2, 4),
     "unet.up.processor.to_k_lora.up.weight": (4, 2)},
    {"unet:0:down": (2, 4), "unet:0:up": (4, 2), "<s1>": (4,)},
    {"base_model.model.q.lora_A.weight": (2, 4), "base_model.model.q.lora_B.weight": (4, 2),
     "base_model.model.q.lora_magnitude_vector": (4,), "base_model.model.k.ia3_l": (4, 1),
     "base_model.model.v.lora_E": (2, 1), "base_model.model.emb.lora_embedding_A": (2, 9),
     "base_model.model.emb.lora_embedding_B": (4, 2), "base_model.model.q.hada_w1_a": (4, 2),
     "base_model.model.q.lokr_w1": (2, 2), "base_model.model.q.oft_r": (1, 6),
     "prompt_embeddings": (4, 8), "base_model.model.head.modules_to_save.weight": (2, 4)},
)  # fmt: skip
TYPES = {
    "IA3": {"feedforward_modules": ["w"], "target_modules": ["k", "v", "w"]},
    "ADALORA": {"init_r": 12, "target_r": 8, "tinit": 0, "tfinal": 0, "total_step": 9},
    "PREFIX_TUNING": {"num_virtual_tokens": 4, "token_dim": 8, "num_layers": 2},
    "LOHA": {"r": 4, "alpha": 8, "rank_dropout": 0.0}, "LOKR": {"r": 4, "decompose_factor": -1},
    "OFT": {"oft_block_size": 4, "r": 0}, "VERA": {"r": 4, "projection_prng_key": 0},
    "LORA": {"target_modules": "^model\\.layers\\.(0|1)\\..*(q|v)_proj$",
             "rank_pattern": {"^model.*q_proj": 2}, "alpha_pattern": {"q_proj": 4.0},
             "layers_to_transform": [0, 1], "layers_pattern": "layers"},
}  # fmt: skip


def seeds(target: str) -> Iterator[bytes]:
    """Yield the seeds of a target: sound ones of all kinds, and the small hostile ones."""
    if target == "policy":
        yield from POLICIES
        return
    yield from {"header": _formats, "config": _configs, "archive": _archives}[target]()
    yield from _hostile(NAMES[target])


def _formats() -> Iterator[bytes]:
    for shapes in FORMATS:
        yield safetensors({name: tensor(np.ones(shape)) for name, shape in shapes.items()})


def _configs() -> Iterator[bytes]:
    for name, fields in TYPES.items():
        yield json.dumps(
            {**(CONFIG if name == "LORA" else {}), "peft_type": name, **fields}
        ).encode()


class _Pipe(io.BytesIO):
    """Written to without going back, so that sizes follow the data."""

    def seekable(self) -> bool:
        return False


def _archives() -> Iterator[bytes]:
    files = {name: text[:200] for name, text in adapter_files().items()}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for kind in (io.BytesIO, _Pipe):
            for top in ("", "adapter/"):
                buffer = kind()
                with zipfile.ZipFile(buffer, "w", method) as archive:
                    if top:
                        archive.writestr(top, b"")
                    for name, text in files.items():
                        archive.writestr(top + name, text)
                    archive.comment = b"x" if top else b""
                yield buffer.getvalue()
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w") as archive,
        archive.open(zipfile.ZipInfo("adapter_config.json"), "w", force_zip64=True) as file,
    ):
        file.write(b"{}")
    yield buffer.getvalue()


def _hostile(name: str) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder, Traps(Path(folder) / "traps") as traps:
        for case in CASES:
            for bad in (True, False):
                place = Path(folder) / f"{case.name}-{bad}"
                place.mkdir()
                case.make(place, traps, bad)
                for path in place.rglob(name):
                    if path.is_file() and not path.is_symlink() and path.stat().st_size <= LONGEST:
                        yield path.read_bytes()
