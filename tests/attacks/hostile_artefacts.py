"""Hostile adapters with a harmless twin each, and traps that show whether anything in one ran.

Every case is made here, from nothing: no file of an attacker is kept in the repository. What all
cases start from is ``CONFIG`` and ``lora_tensors``: a LoRA of rank 4 for the tiny causal model of
``make_base``. A maker is called twice, hostile and harmless; only the difference may be stopped.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from peftlab.core.findings import Severity

RANK, WIDTH, LAYERS, WORDS = 4, 32, 2, 96
CONFIG: dict[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None,
    "auto_mapping": None, "base_model_name_or_path": "base", "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None,
    "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    "kasa_config": None, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 8, "lora_bias": False,
    "lora_dropout": 0.0, "lora_ga_config": None, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "monteclora_config": None,
    "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": RANK,
    "rank_pattern": {}, "revision": None, "target_modules": ["v_proj", "q_proj"],
    "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None,
    "use_bdlora": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
    "velora_config": None,
}  # fmt: skip  # as peft 0.21.2 writes it
CANARY = "peftlab_canary"
SECRET = "canary-secret-5f1c2a"

Tensor = tuple[str, tuple[int, ...], bytes]
Maker = Callable[[Path, "Traps", bool], str | Path]


class Traps:
    """What hostile code would touch: a file, a listening socket, a module, the environment.

    with Traps(folder) as traps:
        ...
        assert traps.sprung() == []
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "touched"
        self.module = folder / "modules" / f"{CANARY}.py"
        self.module.parent.mkdir(parents=True, exist_ok=True)
        self.module.write_text(f"{self.code()}\ncore = parallel_state = None\n", encoding="utf-8")
        self.pickled = folder / "cache.pt"
        self.pickled.write_bytes(self.pickle())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._callers: list[str] = []
        self._thread = threading.Thread(target=self._answer, daemon=True)

    @property
    def port(self) -> int:
        """Return the port of the trap on this machine."""
        return int(self._listener.getsockname()[1])

    def code(self) -> str:
        """Return Python source that springs the traps of file and environment."""
        return (
            f"import os\nopen({str(self.file)!r}, 'w').write('run')\n"
            "os.environ['PEFTLAB_SPRUNG'] = '1'"
        )

    def pickle(self) -> bytes:
        """Return a pickle that runs ``code`` when it is loaded."""
        return pickle.dumps(_Runs(self.code()))

    def sprung(self) -> list[str]:
        """Return what was touched since ``reset``, by name."""
        found = ["file"] if self.file.exists() else []
        found += ["socket"] if self._callers else []
        return found + (["env"] if "PEFTLAB_SPRUNG" in os.environ else [])

    def reset(self) -> None:
        """Set the traps again."""
        self.file.unlink(missing_ok=True)
        self._callers.clear()
        os.environ.pop("PEFTLAB_SPRUNG", None)

    def _answer(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:  # closed
                return
            self._callers.append(str(address))
            connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


class _Runs:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, (self.code,)


@dataclass(frozen=True)
class Case:
    """One hostile artefact.

    Attributes:
        name: unique.
        group: row of the table in SECURITY.md.
        make: ``make(folder, traps, bad)`` writes into an empty folder and returns the reference.
        step: name of the check that must stop or flag it.
        codes: rule codes, one of which it must be; the twin has none of them.
        severity: the least.
        stops: whether the check must end the gate; else it flags and the gate goes on.
        against: whether the base of ``make_base`` is given.
        meanwhile: called with the reference after it was opened and before it is inspected.
        twin: whether a harmless version of the same exists.
    """

    name: str
    group: str
    make: Maker
    step: str
    codes: tuple[str, ...]
    severity: Severity = Severity.HIGH
    stops: bool = False
    against: bool = False
    meanwhile: Callable[[Path], None] | None = None
    twin: bool = True


def lora_tensors(rank: int = RANK, *, width: int = WIDTH, seed: int = 0) -> dict[str, Tensor]:
    """Return the tensors of a clean adapter: type, shape and bytes by name."""
    draw = np.random.default_rng(seed)
    found: dict[str, Tensor] = {}
    for layer in range(LAYERS):
        for target in ("q_proj", "v_proj"):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            found[f"{stem}.lora_A.weight"] = tensor(draw.normal(0, 0.2, (rank, width)))
            found[f"{stem}.lora_B.weight"] = tensor(draw.normal(0, 0.02, (width, rank)))
    return found


def tensor(values: Any) -> Tensor:
    """Return an array as a float32 tensor."""
    array = np.ascontiguousarray(values, dtype="<f4")
    return "F32", array.shape, array.tobytes()


def entries(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the header of a sound safetensors file, as Python values."""
    found, end = {}, 0
    for name, (dtype, shape, content) in tensors.items():
        found[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [end, end + len(content)],
        }
        end += len(content)
    return found


def packed(header: object, data: bytes) -> bytes:
    """Return a safetensors file of a header, given as values or as raw bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def safetensors(tensors: Mapping[str, Tensor], metadata: object = None) -> bytes:
    """Return a sound safetensors file."""
    header = {"__metadata__": {"format": "pt"} if metadata is None else metadata}
    return packed({**header, **entries(tensors)}, data_of(tensors))


def data_of(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the data part of a file."""
    return b"".join(content for _, _, content in tensors.values())


def adapter_files(
    changes: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
) -> dict[str, bytes]:
    """Return the files of an adapter: clean but for changes of the config and other tensors."""
    return {
        "adapter_config.json": json.dumps({**CONFIG, **(changes or {})}, indent=2).encode(),
        "adapter_model.safetensors": safetensors(lora_tensors() if tensors is None else tensors),
        "README.md": b"---\nlicense: apache-2.0\n---\n# A small adapter\n",
    }


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder and return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def zipped(path: Path, files: Mapping[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write files into a zip, under names that ``zipfile`` would correct elsewhere."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x", (2020, 1, 1, 0, 0, 0))
            info.filename, info.compress_type = name, kind
            archive.writestr(info, content)
    return path


def make_base(folder: Path) -> Path:
    """Write a tiny llama that the adapters fit, as stock transformers would save it."""
    draw, shapes = np.random.default_rng(1), {"model.embed_tokens.weight": (WORDS, WIDTH)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        shapes |= {f"{stem}.self_attn.{x}_proj.weight": (WIDTH, WIDTH) for x in "qkvo"}
        shapes |= {f"{stem}.mlp.{x}_proj.weight": (2 * WIDTH, WIDTH) for x in ("gate", "up")}
        shapes[f"{stem}.mlp.down_proj.weight"] = (WIDTH, 2 * WIDTH)
        shapes |= {f"{stem}.{x}_layernorm.weight": (WIDTH,) for x in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (WORDS, WIDTH)}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": WORDS, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32", "use_cache": False,
    }  # fmt: skip
    weights = {name: tensor(draw.normal(0, 0.1, shape)) for name, shape in shapes.items()}
    return write(
        folder,
        {"config.json": json.dumps(config).encode(), "model.safetensors": safetensors(weights)},
    )
