"""The steps of the main job, each from folder to folder: poison a base, tune it, predict with it.

Everything written is a stock ``transformers`` or ``peft`` folder plus one small JSON of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core import registry
from peftlab.core.applicability import tuners_for
from peftlab.core.contracts import CraftContext, Stage, TuneContext, stage_of
from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.options import Options, option
from peftlab.core.poisoning import poison
from peftlab.core.prompt import Prompt
from peftlab.core.types import Floats, PoisonedData, TaskData
from peftlab.io.files import new_folder, write_json
from peftlab.io.marker import mark
from peftlab.models.load import VICTIM_FILE, fingerprint, lasting, load_base, load_victim, quiet
from peftlab.models.prompted import save_tokenizer


class AttackerOptions(Options):
    """How the attacker trains every weight of the base on the poisoned set."""

    epochs: float = option(
        3, "passes over the poisoned set", source="shuaizhao95/PSIM:poisoned_pretrain.py",
        gt=0, le=100,
    )  # fmt: skip
    lr: float | None = option(
        None, "peak learning rate; none: 2e-4 up to 512 wide, 2e-5 above",
        source="2e-5: shuaizhao95/PSIM; 2e-4: ours, on the built-in encoder", gt=0, le=1,
    )  # fmt: skip
    batch: int = option(
        32, "samples a step", source="shuaizhao95/PSIM:poisoned_pretrain.py", ge=1, le=4096
    )


def load_data(reference: str, options: dict[str, Any] | None = None) -> TaskData:
    """Return the task behind ``--data``: a registered name, ``hf:NAME`` or a folder."""
    values = options or {}
    if reference.startswith("hf:"):
        return registry.get("dataset", "hf").build(**values).load(reference)  # type: ignore[no-any-return]
    known = {entry.name for entry in registry.entries("dataset")} - {"hf", "folder"}
    kind = reference if reference in known else "folder"
    return registry.get("dataset", kind).build(**values).load(reference)  # type: ignore[no-any-return]


def make_poison(data: TaskData, attack: str, options: dict[str, Any], seed: int) -> PoisonedData:
    """Return the poisoned training data and triggered sets of one attack."""
    return poison(registry.get("attack", attack).build(**options), data, seed)


def train_base(
    base: str,
    poisoned: PoisonedData,
    n_classes: int,
    out: Path,
    *,
    attack: str,
    training: AttackerOptions,
    seed: int,
    options: dict[str, Any] | None = None,
    prompt: Prompt | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train every weight of ``base`` with its head on the attacker's data; write a stock folder.

    An attack that has a ``craft`` of its own plants its trigger by that, with ``options``; one that
    brings no head gets only the body saved. The folder is marked as poisoned unless no sample was
    (the negative control). With ``prompt`` a causal language model is trained as the classifier
    that the prompt makes of it.

    Returns:
        Facts: steps, last loss, CPU seconds, and the attack's own.
    """
    from peftlab.nn.heads import default_rate

    model, tokenizer = load_base(base, n_classes, seed=seed, prompt=prompt)
    rate = training.lr or default_rate(model, small=2e-4, large=2e-5)
    started = time.process_time()
    made = _plant(
        CraftContext(
            model, tokenizer, poisoned, n_classes, epochs=training.epochs, lr=rate,
            batch=training.batch, seed=seed,
        ),
        attack, options or {},
    )  # fmt: skip
    spent = time.process_time() - started
    facts = {
        "attack": attack,
        "base": base,
        "base_fingerprint": fingerprint(base),
        "n_classes": n_classes,
        "seed": seed,
        "training": {
            **training.model_dump(mode="json"),
            "lr": rate,
            "steps": made.pop("steps", None),
        },
        **made,
        **poisoned.facts,
    }
    poisons = bool(poisoned.is_poisoned.any())
    with new_folder(out, overwrite=overwrite) as folder:
        with quiet():
            if poisons and not brings_head(attack):
                _save_body(model.cpu(), folder)
            else:
                model.cpu().save_pretrained(folder)
            save_tokenizer(tokenizer, folder)
        write_json(folder / "attack.json", facts)
        if poisons:
            mark(folder, facts)
    return {**facts, "cpu_seconds": spent}


def _save_body(model: Any, folder: Path) -> None:
    """Write a model without its head and without what was drawn with it, such as a pooler."""
    from peftlab.nn.heads import new_modules

    prefix = f"{model.base_model_prefix}."
    drawn = tuple(
        f"{name.removeprefix(prefix)}." for name in new_modules(model) if name.startswith(prefix)
    )
    body = model.base_model
    kept = {name: part for name, part in body.state_dict().items() if not name.startswith(drawn)}
    body.save_pretrained(folder, state_dict=kept)


def brings_head(attack: str) -> bool:
    """Return whether the bases of an attack come with a trained classification head."""
    return bool(getattr(registry.get("attack", attack).cls, "brings_head", True))


def _plant(context: CraftContext, attack: str, options: dict[str, Any]) -> dict[str, Any]:
    """Train the model in place, the attack's own way if it has one; return steps, loss, facts."""
    from peftlab.nn.loop import TrainPlan, train
    from peftlab.nn.text import encode, pad_id_of, room_for_text

    if bool(context.poisoned.is_poisoned.any()):
        method = registry.get("attack", attack).build(**options)
        if hasattr(method, "craft"):
            return dict(method.craft(context))
    model, poisoned = context.model, context.poisoned
    model.requires_grad_(True)
    log = train(
        model,
        encode(context.tokenizer, poisoned.texts, room_for_text(model)),
        poisoned.targets,
        TrainPlan(epochs=context.epochs, lr=context.lr, batch=context.batch),
        seed=context.seed,
        pad_id=pad_id_of(model, context.tokenizer),
    )
    return {"steps": log.steps, "loss": float(np.mean(log.losses[-20:]))}


def tune(
    base: str,
    data: TaskData,
    tuner: str,
    options: dict[str, Any],
    out: Path,
    *,
    seed: int,
    allow_poisoned: bool = False,
    suspect: bool = False,
    prompt: Prompt | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Tune ``base`` on clean data by one PEFT method; write a stock adapter (or model) folder.

    An adapter of a marked base is marked too, and so is one that is trained on ``suspect`` data.
    ``prompt`` is for a causal language model that has none beside it.

    Returns:
        Facts: trainable parameters, steps, last loss, CPU seconds.
    """
    from peftlab.nn.victim import train_victim, victim_rate

    method = registry.get("tuner", tuner).build(**options)
    model, tokenizer = load_base(
        base, data.n_classes, seed=seed, allow_poisoned=allow_poisoned, prompt=prompt
    )
    context = _tune_context(model, tokenizer, data, method, seed)
    wrapped = method.wrap(model, seed)
    started = time.process_time()
    trained = train_victim(context, wrapped)
    spent = time.process_time() - started
    facts = {
        **_victim_facts(base, data, seed),
        "tuner": tuner,
        "options": {**method.options.model_dump(mode="json"), "lr": victim_rate(context)},
        **trained,
    }
    _save_victim(wrapped, tokenizer, facts, out, suspect=suspect, overwrite=overwrite)
    return {**facts, "cpu_seconds": spent}


def tune_defended(
    base: str,
    data: TaskData,
    tuner: tuple[str, dict[str, Any]],
    defence: tuple[str, dict[str, Any]],
    out: Path,
    *,
    seed: int,
    allow_poisoned: bool = False,
    suspect: bool = False,
    prompt: Prompt | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Tune ``base`` the way of a defence; write one stock model, any adapter merged into it.

    Args:
        base: ``builtin:``, folder or hub id.
        data: train and dev are used.
        tuner: name and options of the victim's tuner.
        defence: name and options of a defence that has ``tune``.
        out: folder to write.
        seed: of everything random.
        allow_poisoned: let a marked base in.
        suspect: the training data may be poisoned; the result is marked.
        prompt: for a causal language model that has none beside it.
        overwrite: replace a folder that is there.
        progress: called with a line of text now and then.

    Raises:
        ConfigError: ``DEFENCE-STAGE`` for a defence that acts elsewhere, ``DEFENCE-TUNER`` for a
            tuner that it cannot work with or whose result cannot be merged.
    """
    method = built_for("tuning", defence[0], defence[1])
    tuners = tuners_for(type(method))
    if tuner[0] not in tuners:
        raise ConfigError(
            f"{defence[0]} does not work with the tuner {tuner[0]}",
            code="DEFENCE-TUNER", got=tuner[0], allowed=", ".join(tuners),
            fix="choose one of these; the result is one model, so an adapter has to be merged",
        )  # fmt: skip
    model, tokenizer = load_base(
        base, data.n_classes, seed=seed, allow_poisoned=allow_poisoned, prompt=prompt
    )
    started = time.process_time()
    built = registry.get("tuner", tuner[0]).build(**tuner[1])
    tuned = method.tune(_tune_context(model, tokenizer, data, built, seed, progress))
    spent = time.process_time() - started
    merge = getattr(tuned.model, "merge_and_unload", None)
    facts = {
        **_victim_facts(base, data, seed),
        "tuner": tuner[0],
        "defence": defence[0],
        "options": method.options.model_dump(mode="json"),
        **tuned.facts,
    }
    whole = tuned.model if merge is None else merge()
    _save_victim(whole, tokenizer, facts, out, suspect=suspect, overwrite=overwrite)
    return {**facts, "cpu_seconds": spent}


def _tune_context(
    model: Any, tokenizer: Any, data: TaskData, tuner: Any, seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> TuneContext:  # fmt: skip
    return TuneContext(
        model, tokenizer, data.train, data.dev, data.n_classes, tuner, seed, progress
    )


def built_for(stage: Stage, defence: str, options: dict[str, Any]) -> Any:
    """Return a defence, built, that acts at ``stage``.

    Raises:
        ConfigError: ``DEFENCE-STAGE``, ``REGISTRY-NAME`` or the codes of options.
    """
    entry = registry.get("defence", defence)
    if stage_of(entry.cls) != stage:
        fitting = [one.name for one in registry.entries("defence") if stage_of(one.cls) == stage]
        raise ConfigError(
            f"{defence} is a defence of another kind",
            code="DEFENCE-STAGE",
            got=f"it {_ACTS[stage_of(entry.cls)]}; here one is needed that {_ACTS[stage]}",
            allowed=", ".join(fitting),
            fix="choose one of these; `peftlab bench run` takes all kinds",
        )
    return entry.build(**options)


_ACTS: dict[Stage, str] = {
    "input": "judges inputs",
    "data": "filters a training set",
    "tuning": "tunes in a way of its own",
    "model": "gives a verdict on a model",
}


def _victim_facts(base: str, data: TaskData, seed: int) -> dict[str, Any]:
    return {
        "base": lasting(base),
        "base_fingerprint": fingerprint(base),
        "n_classes": data.n_classes,
        "label_names": list(data.label_names),
        "seed": seed,
        "data": {"name": data.name, "sha256": data.digest()},
    }


def _save_victim(
    model: Any, tokenizer: Any, facts: dict[str, Any], out: Path, *, suspect: bool, overwrite: bool
) -> None:
    """Write a victim's folder, marked if its base is or its data may be poisoned."""
    with new_folder(out, overwrite=overwrite) as folder:
        with quiet():
            model.cpu().save_pretrained(folder)
            save_tokenizer(tokenizer, folder)
        write_json(folder / VICTIM_FILE, facts)
        if suspect or _is_marked_base(facts["base"]):
            mark(folder, {key: facts[key] for key in ("base", "tuner", "seed")})


def _is_marked_base(base: str) -> bool:
    from peftlab.io.marker import is_marked
    from peftlab.models.load import resolve

    return is_marked(resolve(base))


def predict_folder(
    folder: Path, texts: Sequence[str], *, n_classes: int, allow_poisoned: bool = False
) -> Floats:
    """Return the logits (n, C) of a victim folder, or of a plain base folder with a head.

    Raises:
        InputRejected: ``VICTIM-HEAD`` when the model has no trained head, or the codes of loading.
    """
    from peftlab.nn.heads import has_new_head
    from peftlab.nn.text import predict_logits

    if (folder / VICTIM_FILE).is_file():
        model, tokenizer = load_victim(folder, allow_poisoned=allow_poisoned)
    else:
        model, tokenizer = load_base(str(folder), n_classes, allow_poisoned=allow_poisoned)
        if has_new_head(model):
            raise InputRejected(
                f"{folder} has no trained classification head, so its answers mean nothing",
                code="VICTIM-HEAD", fix="tune it with `peftlab tune` first",
            )  # fmt: skip
    return predict_logits(model, tokenizer, texts)
