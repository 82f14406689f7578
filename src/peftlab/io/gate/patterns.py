"""Step 6: patterns for module names, which ``peft`` runs as they are, on every module of a base.

A pattern is let through by its form, refused by its form (``pattern_form``), or tried in a cage on
long names of many families of models. What is refused is not in the config that is handed on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftlab.core.findings import Check, Severity, rule
from peftlab.io.artefact import Artefact
from peftlab.io.cage import has_cage, run_caged
from peftlab.io.gate.hooks import Path as Place
from peftlab.io.gate.hooks import without, written
from peftlab.io.gate.json_files import ADAPTER_CONFIG
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.pattern_form import refusal
from peftlab.io.gate.step import concluded

PATTERN = rule(
    "GATE-PATTERN",
    Severity.HIGH,
    "a pattern for module names that may run for days, or that is none",
    why="peft matches it against every module, and one match can outlast the machine",
    fix="list the module names instead, as peft itself saves them",
)

MOST = 2048  # patterns of one config; Python forgets compiled ones beyond 512
CPU_SECONDS, WALL_SECONDS = 1, 10.0
MEMORY, OUTPUT = 256 * 2**20, 2**20  # bytes
CHILD = Path(__file__).with_name("match_child.py")
# how peft puts each kind of pattern into its own
WHOLE = "{}"
FIELDS = {
    "target_modules": WHOLE, "exclude_modules": WHOLE, "feedforward_modules": WHOLE,
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", "modules_to_save": r"(^|.*\.){}($|\..*)",
}  # fmt: skip
KEYS = r"(.*\.)?({})$"  # the keys of rank_pattern, alpha_pattern and their like

_STEMS = (
    "bert.encoder.layer.11.attention.self.query", "bert.encoder.layer.11.output.dense",
    "roberta.encoder.layer.23.attention.output.dense",
    "deberta.encoder.layer.11.attention.self.query_proj",
    "transformer.h.47.attn.c_attn", "transformer.h.31.mlp.dense_h_to_4h", "lm_head", "score",
    "gpt_neox.layers.43.attention.query_key_value", "transformer.blocks.31.ffn.up_proj",
    "model.layers.31.self_attn.q_proj", "model.layers.79.mlp.gate_proj", "model.embed_tokens",
    "model.layers.60.mlp.experts.255.down_proj", "model.layers.60.mlp.shared_experts.up_proj",
    "model.language_model.layers.63.linear_attn.in_proj_qkvz", "model.visual.blocks.31.attn.qkv",
    "model.vision_tower.vision_model.encoder.layers.26.self_attn.out_proj",
    "model.audio_tower.layers.31.fc1", "model.decoder.layers.47.encoder_attn.k_proj",
    "encoder.block.23.layer.1.DenseReluDense.wi_0", "decoder.block.23.layer.1.EncDecAttention.q",
    "backbone.layers.63.mixer.in_proj", "vit.encoder.layer.11.attention.attention.value",
    "resnet.encoder.stages.3.layers.2.layer.2.convolution", "classifier.out_proj",
    "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0", "conv_in",
    "up_blocks.0.resnets.2.time_emb_proj", "single_transformer_blocks.37.proj_mlp",
    "text_model.encoder.layers.22.mlp.fc2", "distilbert.transformer.layer.5.ffn.lin1",
)  # fmt: skip
NAMES = (
    *_STEMS,
    *(f"base_model.model.{stem}.base_layer" for stem in _STEMS),
    *(".".join([stem] * 3)[:200] for stem in _STEMS[::3]),
    "a" * 128, "q_proj." * 18, "layers.1." * 14, "0123456789" * 12, "_" * 128, "." * 128,
    "abcdefghijklmnopqrstuvwxyz_0123456789.ABCDEFGHIJKLMNOPQRSTUVWXYZ" * 2,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """A pattern, where it stands in the config, and how peft uses it."""

    place: Place
    text: Any
    used: str = WHOLE


def patterns_in(config: Mapping[str, Any]) -> Iterator[Written]:
    """Yield every pattern of an ``adapter_config.json``.

    Most lists hold names that peft compares as they are. They are held to the same rules: what
    looks like a pattern in one works nowhere.

    Examples:
        >>> [each.text for each in patterns_in({"target_modules": "all", "rank_pattern": {"q": 4}})]
        ['all', 'q']
    """
    for name, used in FIELDS.items():
        value = config.get(name)
        if isinstance(value, list):
            for number, each in enumerate(value):
                yield Written((name, number), each, used)
        elif value is not None:
            yield Written((name,), value, used)
    for name, value in config.items():
        if name.endswith("_pattern") and isinstance(value, dict):
            for key in value:
                yield Written((name, key), key, KEYS)


def refused_patterns(config: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """Return the places of all patterns that may not be run, each with the reason.

    Examples:
        >>> refused_patterns({"target_modules": "all-linear", "exclude_modules": "(a+)+"})
        [(('exclude_modules',), 'a repeat of what repeats or has alternatives')]
    """
    every = list(patterns_in(config))
    if len(every) > MOST:
        why = f"{len(every)} patterns, more than {MOST}"
        return [((name,), why) for name in dict.fromkeys(each.place[0] for each in every)]
    judged = [(each, refusal(each.text, inside=each.used != WHOLE)) for each in every]
    untold = [each for each, why in judged if why is None]
    refused = [(each.place, why) for each, why in judged if why]
    return refused + (_tried(untold) if untold else [])


def _tried(patterns: Sequence[Written]) -> list[tuple[Place, str]]:
    """Run patterns on all names in a cage; return those that are broken or do not end."""
    if not has_cage():
        return [(each.place, "cannot be tried on this system") for each in patterns]
    asked = [[each.text, each.used.replace("{}", each.text)] for each in patterns]
    ended = run_caged(
        [str(CHILD)],
        cpu_seconds=CPU_SECONDS,
        wall_seconds=WALL_SECONDS,
        memory_bytes=MEMORY,
        file_bytes=OUTPUT,
        stdin=json.dumps({"names": NAMES, "patterns": asked}).encode(),
    )
    said = dict.fromkeys(range(len(patterns)), "was not reached in time")
    for line in ended.stdout.decode("utf-8", "replace").splitlines():
        number, _, what = line.partition(" ")
        if number.isdecimal() and int(number) in said:
            said[int(number)] = {
                "begins": f"did not end within {CPU_SECONDS} s of computing time", "done": "",
            }.get(what, what)  # fmt: skip
    return [(patterns[number].place, why) for number, why in said.items() if why]


def check_patterns(artefact: Artefact, limits: Limits) -> Check:
    """Check all patterns; those that are refused are taken out of ``artefact.config``."""
    if ADAPTER_CONFIG not in artefact.files:
        return concluded("gate-patterns", facts={"patterns": 0})
    refused = refused_patterns(artefact.config)
    texts = {each.place: each.text for each in patterns_in(artefact.config)}
    findings = [
        PATTERN.found(f"{ADAPTER_CONFIG}#{written(place)}", f"{why}: {str(texts.get(place))[:200]}")
        for place, why in refused[: limits.findings]
    ]
    left = len(refused) - len(findings)
    artefact.config = without(artefact.config, {place for place, _ in refused})
    return concluded(
        "gate-patterns",
        findings,
        facts={"patterns": len(texts), "names": len(NAMES)},
        not_checked=[f"{left} more findings were not written down"] if left else [],
    )
