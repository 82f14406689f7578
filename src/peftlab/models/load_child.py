"""In a cage: stock ``peft`` loads an adapter onto a base that is built from its config.

The current folder holds ``adapter_config.json`` and ``adapter_model.safetensors`` as a loader
expects them, and ``base/config.json``. stdout: one JSON object. The base has no weights (meta
device): a 7B model costs nothing. The few methods that compute with the weights of the base get
random ones, if the base is small.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

WEIGHTS = "adapter_model.safetensors"
MOST_PARAMETERS = 300_000_000  # of a base that is filled with random weights
TASKS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
HEAD = re.compile(r"\b(?:classifier|score)(?:\.\w+)*\.weight")
TABLE = re.compile(r"\b(?:embed_tokens|word_embeddings|wte|embed_in|shared)(?:\.\w+)*\.weight")
NO_WEIGHTS = re.compile("meta tensors?|register_meta function")  # no name has a blank
SHOWN = 20  # keys
BANK = "vblora_vector_bank"  # stands in the file once, and peft misses it in every layer
PROMPTS = "prompt_embeddings"  # peft loads it by a way of its own and reports it as unexpected


def main() -> None:
    """Load, and say what happened; what the libraries print goes to stderr."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    json.dump(_loaded(), answer)
    answer.close()


def _loaded() -> dict[str, Any]:
    import peft
    import torch
    import transformers

    tried = []
    for name in _class_names():
        tried.append(_onto(name))
        if tried[-1].get("fits"):
            break
    best = min(tried, key=_distance)  # of several that are equally far the first, the likeliest
    versions = {each.__name__: each.__version__ for each in (peft, torch, transformers)}
    return {**best, "tried": [each["class"] for each in tried], "versions": versions}


def _distance(found: dict[str, Any]) -> float:
    """Return the share of tensors that found no place; 1 where the load failed."""
    return 1.0 if found["error"] else found["counts"][1] / max(len(_keys()), 1)


def _keys() -> list[str]:
    from safetensors import safe_open

    with safe_open(WEIGHTS, "pt") as file:
        return list(file.keys())


def _class_names() -> Iterator[str]:
    """Yield classes of ``transformers`` that the adapter may have been tuned on, likely first."""
    import transformers
    from peft import PeftConfig

    task = str(getattr(PeftConfig.from_pretrained("."), "task_type", None))
    names = [TASKS[task]] if task in TASKS else []
    names += _base_config().architectures or []
    yield from dict.fromkeys(name for name in [*names, "AutoModel"] if hasattr(transformers, name))


def _base_config() -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained("base", trust_remote_code=False)
    for scheme in ("quantization_config", "compression_config"):
        if hasattr(config, scheme):  # shapes are those of the base before it was packed
            delattr(config, scheme)
    return config


def _onto(class_name: str) -> dict[str, Any]:
    """Load the adapter onto one class of base."""
    found: dict[str, Any] = {"class": class_name, "error": "", "missing": [], "unexpected": []}
    for device in ("meta", "cpu"):
        try:
            base = _build(class_name, device)
            found["parameters"] = sum(each.numel() for each in base.parameters())
            found["device"] = device
            missing, unexpected = _load(base)
        except Exception as error:  # noqa: BLE001  whatever a library does with it is a result
            found["error"] = f"{type(error).__name__}: {error}"[:2000]
            found["weights"] = bool(NO_WEIGHTS.search(found["error"]))
            if found["weights"] and found.get("parameters", 0) <= MOST_PARAMETERS:
                continue
            return found
        found.update(error="", weights=False)
        found["counts"] = [len(missing), len(unexpected)]
        found["missing"], found["unexpected"] = missing[:SHOWN], unexpected[:SHOWN]
        found["fits"] = not missing and not unexpected
        return found
    return found


def _build(class_name: str, device: str) -> Any:
    import torch
    import transformers

    config = _base_config()
    labels, words = _rows(HEAD), _rows(TABLE)
    if labels:
        config.num_labels = labels
    if words and hasattr(config, "vocab_size"):  # a vocabulary that was resized before tuning
        config.vocab_size = words
    made = getattr(transformers, class_name)
    with torch.device(device):
        if class_name.startswith("Auto"):
            return made.from_config(config, trust_remote_code=False)
        return made(config)


def _rows(name: re.Pattern[str]) -> int | None:
    """Return the rows of a head or a table of words that came with the adapter."""
    from safetensors import safe_open

    with safe_open(WEIGHTS, "pt") as file:
        rows = [file.get_slice(key).get_shape()[0] for key in _keys() if name.search(key)]
    return min(rows, default=None)


def _load(base: Any) -> tuple[list[str], list[str]]:
    """Let peft load the folder; return the keys that it missed and those that it left aside."""
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(".")
    config.inference_mode = True
    light = not config.is_prompt_learning
    model = PeftModel(base, config, low_cpu_mem_usage=light)
    result = model.load_adapter(".", "default", torch_device="cpu", low_cpu_mem_usage=light)
    unexpected = [key for key in result.unexpected_keys if key.split(".")[-1] != PROMPTS]
    missing = [key for key in result.missing_keys if BANK not in key.split(".")]
    return missing, unexpected


if __name__ == "__main__":
    main()
