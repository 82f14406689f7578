"""Hostile JSON: the config of an adapter, its patterns, and the files of a tokenizer beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_artefacts import CANARY, CONFIG, Case, Maker, Traps, adapter_files, write

from peftlab.core.findings import Severity

CONFIG_FILE = "adapter_config.json"
MEDIUM = Severity.MEDIUM
BOMB = "([a-z.0-9_]+)+!"


def fields(build: Callable[[Traps], dict[str, Any]] | None = None, **changes: Any) -> Maker:
    """Return a maker of an adapter whose config has other fields."""

    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        wanted = build(traps) if build else changes
        return write(folder, adapter_files(wanted if bad else {}))

    return make


def text(change: Callable[[bytes], bytes], name: str = CONFIG_FILE) -> Maker:
    """Return a maker of an adapter whose config has other bytes."""

    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        files = adapter_files()
        if bad:
            files[name] = change(files[name])
        return write(folder, files)

    return make


def beside(name: str, bad: object, good: object) -> Maker:
    """Return a maker of a clean adapter with another file, as JSON or as it is."""

    def make(folder: Path, traps: Traps, is_bad: bool) -> Path:
        content = bad if is_bad else good
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        return write(folder, {**adapter_files(), name: raw})

    return make


def _inserted(line: bytes) -> Maker:
    return text(lambda x: x.replace(b"{", b"{" + line + b",", 1))


def _hook(name: str, **changes: Any) -> Case:
    return Case(name, "config: import fields", fields(**changes), "gate-config", ("GATE-HOOK",))


def _built(name: str, build: Callable[[Traps], dict[str, Any]]) -> Case:
    return Case(name, "config: import fields", fields(build), "gate-config", ("GATE-HOOK",))


def _module(traps: Traps, **more: Any) -> dict[str, Any]:
    return {"base_model_class": "core", "parent_library": CANARY, **more}


HOOKS = [
    _hook("hook-auto-mapping-os",
          auto_mapping={"base_model_class": "system", "parent_library": "os"}),
    _built("hook-auto-mapping-module", lambda traps: {"auto_mapping": _module(traps)}),
    _hook("hook-megatron-core", megatron_core=CANARY, megatron_config={"hidden_size": 32}),
    _hook("hook-trust-remote-code", trust_remote_code=True),
    _hook("hook-auto-map", auto_map={"AutoModel": "attacker/repo--modeling.Evil"}),
    _hook("hook-kernel-internal", _attn_implementation_internal="attacker/kernel"),
    _hook("hook-kernel", _attn_implementation="attacker/kernel"),
    _hook("hook-nested", loftq_config={"a": [{"auto_map": {"AutoModel": "attacker/repo--m.E"}}]}),
    _hook("hook-custom-class", custom_class=f"{CANARY}.core", model_class=f"{CANARY}.core"),
    _hook("hook-tokenizer-kwargs", peft_type="PROMPT_TUNING", num_virtual_tokens=4,
          prompt_tuning_init="TEXT", prompt_tuning_init_text="a",
          tokenizer_name_or_path="attacker/words", tokenizer_kwargs={"trust_remote_code": True}),
    _built("hook-corda-cache-file", lambda traps: {
        "init_lora_weights": "corda",
        "corda_config": {"cache_file": str(traps.pickled), "covariance_file": str(traps.pickled)}}),
    _built("hook-lora-ga-cache-file", lambda traps: {
        "init_lora_weights": "lora_ga", "lora_ga_config": {"cache_file": str(traps.pickled)}}),
    _hook("hook-runtime-config", runtime_config={"ephemeral_gpu_offload": True, "hook": "os"}),
    _hook("hook-arrow-adapters", arrow_config={"ts_repo_id": "attacker/repo", "experts": ["../x"]}),
    _hook("hook-xlora-adapters", peft_type="XLORA", hidden_size=32,
          adapters={"0": "attacker/adapter"}),
    _built("hook-multitask-state-dict", lambda traps: {
        "peft_type": "MULTITASK_PROMPT_TUNING", "num_virtual_tokens": 4,
        "prompt_tuning_init": "EXACT_SOURCE_TASK",
        "prompt_tuning_init_state_dict_path": str(traps.pickled)}),
]  # fmt: skip


def _bad(name: str, make: Maker, *codes: str, severity: Severity = Severity.HIGH) -> Case:
    return Case(name, "config: values", make, "gate-config", codes, severity)


TYPE, VALUE, UNKNOWN = "GATE-TYPE", "GATE-VALUE", "GATE-UNKNOWN"
VALUES = [
    _bad("unknown-key", fields(evil_option=True), UNKNOWN, severity=MEDIUM),
    _bad("unknown-peft-type", fields(peft_type="EVIL"), TYPE),
    _bad("no-peft-type", fields(peft_type=None), TYPE),
    _bad("rank-as-text", fields(r="4; import os"), TYPE),
    _bad("rank-as-a-truth-value", fields(r=True), TYPE),
    _bad("targets-as-an-object", fields(target_modules={"q_proj": "__import__('os')"}), TYPE),
    _bad("rank-zero", fields(r=0), VALUE),
    _bad("rank-negative", fields(r=-1), VALUE),
    _bad("rank-one-million", fields(r=1_000_000), VALUE),
    _bad("rank-pattern-one-million", fields(rank_pattern={"q_proj": 1_000_000}), VALUE),
    _bad("alpha-1e30", fields(lora_alpha=1e30), VALUE),
    _bad("alpha-pattern-1e30", fields(alpha_pattern={"q_proj": 1e30}), VALUE),
    _bad("dropout-minus-one", fields(lora_dropout=-1.0), VALUE),
    _bad("replicated-2-10-9-times", fields(layer_replication=[[0, 2_000_000_000]]), VALUE),
    _bad("pissa-for-ever", fields(init_lora_weights="pissa_niter_1000000000"), VALUE),
    _bad("virtual-tokens-10-9", fields(peft_type="PROMPT_TUNING", task_type="CAUSAL_LM",
         num_virtual_tokens=1_000_000_000, token_dim=32, num_layers=2), VALUE),
]  # fmt: skip
SCALING = Case(
    "scaling-5000", "config: values", fields(lora_alpha=20_000), "gate-semantic", ("GATE-SCALE",)
)


def _json(name: str, make: Maker, *codes: str) -> Case:
    return Case(name, "JSON", make, "gate-json", codes or ("GATE-JSON",), stops=True)


def _line(key: str, value: bytes) -> Maker:
    plain = json.dumps(CONFIG[key]).encode()
    old, new = b'"%s": %s' % (key.encode(), plain), b'"%s": %s' % (key.encode(), value)
    return text(lambda x: x.replace(old, new))


BAD_JSON = [
    _json("json-nan", _line("lora_alpha", b"NaN")),
    _json("json-infinity", _line("lora_alpha", b"-Infinity")),
    _json("json-1e400", _line("lora_alpha", b"1e400")),
    _json("json-integer-2-40", _line("lora_alpha", b"1099511627776")),
    _json("json-integer-5000-digits", _line("lora_alpha", b"9" * 5000)),
    _json("json-key-twice", _inserted(b'"peft_type": "IA3"')),
    _json("json-key-twice-escaped", _inserted(b'"\\u0072": 1')),
    _json("json-depth-bomb", _inserted(b'"x": ' + b"[" * 100_000 + b"]" * 100_000)),
    _json("json-depth-13", _inserted(b'"loftq": ' + b"[" * 13 + b"]" * 13)),
    _json("json-300-kib", _inserted(b'"note": "' + b"x" * 300 * 1024 + b'"')),
    _json("json-utf-16", text(lambda x: x.decode().encode("utf-16"))),
    _json("json-bad-utf-8", _inserted(b'"note": "\xff\xfe"')),
    _json("json-bom", text(lambda x: b"\xef\xbb\xbf" + x)),
    _json("json-list", text(lambda _: b"[1, 2]")),
    _json("json-cut-short", text(lambda x: x[: len(x) // 2])),
    _json("json-two-values", text(lambda x: x + b"\n{}")),
    _json("json-empty", text(lambda _: b"")),
    _json("json-lone-surrogate", _inserted(b'"note": "\\ud800"')),
]  # fmt: skip


def _pattern(name: str, **changes: Any) -> Case:
    group = "patterns that hang"
    return Case(name, group, fields(**changes), "gate-patterns", ("GATE-PATTERN",))


PATTERNS = [
    _pattern("redos-target-modules", target_modules=BOMB),
    _pattern("redos-exclude-modules", exclude_modules=BOMB),
    _pattern("redos-rank-pattern", rank_pattern={BOMB: 4}),
    _pattern("redos-alpha-pattern", alpha_pattern={BOMB: 8}),
    _pattern("redos-layers-pattern", layers_to_transform=[0], layers_pattern=[BOMB]),
    _pattern("redos-alternation", target_modules=r"(a|a|[a-z]|.)*!"),
    _pattern("redos-polynomial", target_modules=".*" * 24 + "!"),
    _pattern("redos-polynomial-groups", target_modules=r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)!"),
    _pattern("redos-counted", target_modules=r"(?:[a-z.]{1,40}){1,40}!"),
    _pattern("redos-look-ahead", target_modules=r"(?=((?:[a-z._0-9]+)+!))x"),
    _pattern("redos-back-reference", target_modules=r"(.*)(.*)\1\2(.*)\3!"),
    # on the names that a gate may try it on it ends at once; on those of the base it does not
    _pattern("redos-behind-a-prefix",
             target_modules=r"model\.layers\.\d\." + r"\w?" * 16 + ".*" * 6 + "!"),
    _pattern("pattern-3000-characters", target_modules="q_proj|" * 430 + "v_proj"),
    _pattern("pattern-not-a-pattern", target_modules="(q_proj"),
    _pattern("pattern-repeat-bomb", target_modules=r"(?:(?:(?:a{999}){999}){999}){999}"),
]  # fmt: skip

TEMPLATE = (
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}"
    "{{ cycler.__init__.__globals__.os.environ }}"
)
TOKENIZER: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "model_max_length": 64}
BESIDE = [
    Case("tokenizer-auto-map", "files beside the adapter",
         beside("tokenizer_config.json",
                {**TOKENIZER, "auto_map": {"AutoTokenizer": ["attacker/r--t.T", None]}}, TOKENIZER),
         "gate-config", ("GATE-HOOK",)),
    Case("tokenizer-chat-template", "files beside the adapter",
         beside("tokenizer_config.json", {**TOKENIZER, "chat_template": TEMPLATE}, TOKENIZER),
         "gate-config", ("GATE-TEMPLATE",), MEDIUM),
    Case("tokenizer-reaching-template-in-a-list", "files beside the adapter",
         beside("tokenizer_config.json",
                {**TOKENIZER, "chat_template": [{"name": "rag", "template": TEMPLATE}]}, TOKENIZER),
         "gate-config", ("GATE-TEMPLATE",), MEDIUM),
    Case("model-config-kernel", "files beside the adapter",
         beside("config.json", {"model_type": "llama", "_attn_implementation": "attacker/kernel"},
                {"model_type": "llama", "_attn_implementation": "sdpa"}),
         "gate-config", ("GATE-HOOK",)),
    Case("tokenizer-json-twice", "JSON",
         beside("tokenizer_config.json", b'{"a": 1, "a": 2}', b'{"a": 1}'),
         "gate-json", ("GATE-JSON",), stops=True),
]  # fmt: skip


def _base_reference(build: Callable[[Traps, Path], str]) -> Maker:
    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        name = build(traps, folder) if bad else "base"
        return write(folder / "adapter", adapter_files({"base_model_name_or_path": name}))

    return make


def _hostile_base(traps: Traps, folder: Path) -> str:
    """Write a base that would run code: a pickle and a model file of its own."""
    config = {"model_type": "x", "auto_map": {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}}
    files = {"config.json": json.dumps(config).encode(), "pytorch_model.bin": traps.pickle(),
             "m.py": traps.code().encode()}  # fmt: skip
    return str(write(folder / "base", files))


def _base(name: str, build: Callable[[Traps, Path], str]) -> Case:
    return Case(name, "base named by the adapter", _base_reference(build), "gate-config",
                ("GATE-BASE",), Severity.LOW)  # fmt: skip


BASES = [
    _base("base-hostile-folder", _hostile_base),
    _base("base-url", lambda traps, _: f"http://127.0.0.1:{traps.port}/model"),
    _base("base-traversal", lambda traps, _: "../../../../etc"),
    _base("base-terminal-escape", lambda traps, _: "\x1b]0;pwned\x07\x1b[31mmeta-llama/x"),
    _base("base-script", lambda traps, _: "<img src=x onerror=fetch('//a.example')>"),
]

CASES = [*HOOKS, *VALUES, SCALING, *BAD_JSON, *PATTERNS, *BESIDE, *BASES]
