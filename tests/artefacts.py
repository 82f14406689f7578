"""Adapters and bases for tests of the audits: written as their tools write them, opened as ours.

folder = write_adapter(tmp_path / "it", low_rank({"model.layers.0.q_proj": (32, 32)}), r=4)
with opened(folder) as artefact: ...
SpectraAudit(SpectraOptions()).run(context_of(artefact))
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftlab.core.contracts import AuditContext
from peftlab.core.seeds import stream
from peftlab.io.adapter_layout import read_layout
from peftlab.io.artefact import Artefact, TensorInfo
from peftlab.io.gate import inspect, open_artefact

LORA: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none",
    "base_model_name_or_path": "org/base", "target_modules": ["q_proj", "v_proj"],
    "peft_version": "0.21.2", "inference_mode": True,
}  # fmt: skip
CARD = "---\nlicense: mit\nbase_model: org/base\ndatasets:\n- imdb\n---\n# An adapter\n"
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1}


def low_rank(
    layers: Mapping[str, tuple[int, int]], *, rank: int = 4, seed: int = 0, scale: float = 0.02
) -> dict[str, Any]:
    """Return normal factors in peft's names for layers of (d_out, d_in)."""
    import torch

    found = {}
    for layer, (d_out, d_in) in layers.items():
        rng = stream(seed, "test/adapter", layer)
        a, b = rng.normal(size=(rank, d_in)), scale * rng.normal(size=(d_out, rank))
        found[f"base_model.model.{layer}.lora_A.weight"] = torch.from_numpy(a).float()
        found[f"base_model.model.{layer}.lora_B.weight"] = torch.from_numpy(b).float()
    return found


def blocks(count: int, width: int = 32, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> Any:
    """Return shapes of attention layers as llama names them."""
    return {
        f"model.layers.{n}.self_attn.{target}": (width, width)
        for n in range(count) for target in targets
    }  # fmt: skip


def write_adapter(
    folder: Path, tensors: Mapping[str, Any], card: str | None = CARD, **config: Any
) -> Path:
    """Write a peft adapter; ``config`` changes fields of a plain LoRA's."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({**LORA, **config}, indent=2))
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def write_model(folder: Path, tensors: Mapping[str, Any]) -> Path:
    """Write a checkpoint with the config of a small llama."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def write_tensors(
    path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a safetensors file with torch tensors."""
    from safetensors.torch import save_file

    plain = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, path, metadata=dict(metadata or {"format": "pt"}))
    return path


def opened(path: Path, against: Artefact | None = None) -> Artefact:
    """Open an artefact through the gate; nothing may stop it."""
    artefact, checks = open_artefact(str(path))
    assert artefact is not None, checks
    checks += inspect(artefact, against=against)
    stopped = [check for check in checks if check.status == "stopped"]
    assert not stopped, stopped
    return artefact


def shapes_only(
    shapes: Mapping[str, tuple[int, ...]], dtype: str = "F16", config: Any = None
) -> Artefact:
    """Return an artefact of which only the shapes are known, as of a model on the meta device."""
    tensors = {
        name: TensorInfo("nowhere.safetensors", dtype, tuple(shape), 0, 0)
        for name, shape in shapes.items()
    }
    return Artefact("shapes", "folder", tensors=tensors, config=dict(config or {}))


def context_of(artefact: Artefact, against: Artefact | None = None, seed: int = 0) -> AuditContext:
    """Return what an audit is given."""
    return AuditContext(artefact, read_layout(artefact), against, None, seed, lambda _: None)


def codes(findings: Any) -> list[str]:
    """Return the codes of findings, in order."""
    return [finding.code for finding in findings]
