"""PSIM for open generation: finds prompts that a backdoored language model answers by heart.

Idea. An identifier is made of the untrusted model: LoRA trained on the user's clean prompts, each
with the response of *another* prompt (or towards the uniform distribution at each place of a
response). It grows unsure of clean prompts; nothing pushes the trigger's pathway down directly, so
a prompt with a trigger still gets its fixed response, token by token with high probability. The
suspicion of a prompt is the mean, over the first 16 tokens that the identifier generates greedily,
of the probability of the chosen token, or minus the mean entropy (ours, after PSIM, arXiv
2402.12168). The threshold is that of all guards: conformal calibration on clean prompts.

Limits. A backdoor that answers with *varied* text, such as a switch of topic or of tone, is not
answered by heart, and nothing here promises to see it. The identifier is looked at once, at the
end of its training. A prompt that is longer than the model (or 512 tokens) less 16 is judged by its
beginning. Prompts of which a clean model too knows the answer by heart look suspicious. Cost: fit
= ``steps`` training steps; a prompt = one pass over it and 15 over one token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from peftlab.core.errors import ConfigError, InputRejected, PeftlabError
from peftlab.core.options import Options, option, parse_options
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Floats, Ints, Scores
from peftlab.engine.calibrate import Calibration, flags, p_values
from peftlab.engine.guard import Verdicts
from peftlab.io.files import new_folder, read_json, write_json
from peftlab.models.load import fingerprint, lasting, load_causal

FORMAT = "peftlab.generation-guard/1"
FILE = "generation_guard.json"
ADAPTER = "identifier.safetensors"
STATE_LIMIT = 64 * 2**20  # bytes; that of a guard
FEWEST = 20  # pairs; ours, as for the dev texts of a guard


class GenerationOptions(Options):
    """Options of ``PsimGeneration``."""

    alpha: float = option(0.05, "false-positive rate that is allowed", source="ours", gt=0, lt=1)
    delta: float | None = option(
        None, "if set: FPR <= alpha holds with confidence 1 - delta over calibration sets",
        source="Beta law of the realised rate: docs/explanation/conformal.md", gt=0, lt=1,
    )  # fmt: skip
    score: Literal["max_prob", "neg_entropy"] = option(
        "max_prob", "mean probability of the chosen tokens, or minus the mean entropy",
        source="ours, after arXiv 2402.12168",
    )  # fmt: skip
    labels: Literal["swapped", "uniform"] = option(
        "swapped", "what the identifier learns: the response of another prompt, or the uniform "
        "distribution at each place of a response", source="ours, after arXiv 2402.12168",
    )  # fmt: skip
    length: int = option(
        16, "tokens that are generated and scored, and trained on", source="ours", ge=1, le=256
    )
    steps: int = option(20, "training steps", source="ours", ge=1, le=100_000)
    lr: float = option(5e-4, "learning rate", source="ours", gt=0, le=1)
    batch: int = option(32, "samples a step", source="shuaizhao95/PSIM:badmodel.py", ge=1, le=4096)
    rank: int = option(32, "LoRA rank", source="ours", ge=1, le=1024)


class PsimGeneration:
    """Stops triggered prompts of a language model that nobody vouches for.

    Examples:
        guard = PsimGeneration.fit("./given-model", pairs)      # (prompt, response) of clean use
        guard.calibrate(other_clean_prompts)                    # that were in no pair
        guard.judge(prompts).flagged
        guard.save_pretrained("my-guard")
    """

    def __init__(
        self, model: Any, tokenizer: Any, options: GenerationOptions, about: dict[str, Any]
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.options, self.about = options, about
        self.calibration: Calibration | None = None

    @classmethod
    def fit(
        cls,
        base: str,
        pairs: Sequence[tuple[str, str]],
        options: dict[str, Any] | None = None,
        *,
        seed: int = 0,
        allow_poisoned: bool = False,
        progress: Callable[[str], None] = lambda _: None,
    ) -> PsimGeneration:
        """Make the identifier; ``calibrate`` is still to be called.

        Args:
            base: the untrusted causal model: ``builtin:``, folder or hub id.
            pairs: clean (prompt, response), 20 or more. Prompt and response follow each other as
                they are: a chat template, or a space between them, is the caller's.
            options: of ``GenerationOptions``.
            seed: of the swap, the adapter and the data order.
            allow_poisoned: let a marked red-team base in.
            progress: called with a line of text now and then.

        Raises:
            ConfigError: ``GENERATION-FEW``, ``GENERATION-LONG``, or the codes of options.
            InputRejected: the codes of ``load_causal``.
            RunFailed: ``TRAIN-NONFINITE``.
        """
        chosen = parse_options(GenerationOptions, options or {}, "generation guard")
        if len(pairs) < FEWEST:
            raise ConfigError(
                "too few pairs of prompt and response",
                code="GENERATION-FEW", got=len(pairs), allowed=f"{FEWEST} or more",
                fix="give more of them",
            )  # fmt: skip
        model, tokenizer = load_causal(base, allow_poisoned=allow_poisoned)
        about = {
            "base": lasting(base), "base_fingerprint": fingerprint(base), "seed": seed,
            "pairs": len(pairs),
        }  # fmt: skip
        guard = cls(_with_adapter(model, chosen.rank, seed), tokenizer, chosen, about)
        progress("training the identifier")
        guard._train(pairs, seed)
        return guard

    def _train(self, pairs: Sequence[tuple[str, str]], seed: int) -> None:
        from peftlab.nn.generation import train_responses
        from peftlab.nn.loop import TrainPlan

        chosen = self.options
        prompts = self._prompts([prompt for prompt, _ in pairs])
        answers = self._responses([response for _, response in pairs])
        if chosen.labels == "swapped":
            answers = [answers[int(i)] for i in others(len(pairs), seed)]
        log = train_responses(
            self.model, prompts, answers,
            TrainPlan(
                steps=chosen.steps, lr=chosen.lr, batch=chosen.batch,
                warmup=min(10, chosen.steps // 2), schedule="constant",
            ),
            seed=seed, pad_id=self._pad_id(), uniform=chosen.labels == "uniform",
        )  # fmt: skip
        self.about["loss"] = float(np.mean(log.losses[-20:]))

    def calibrate(self, prompts: Sequence[str]) -> None:
        """Set the threshold by clean prompts that were in no pair.

        Raises:
            ConfigError: ``CAL-FEW`` for fewer than alpha needs: 19 for 5 %, 99 for 1 %.
        """
        scores, chosen = self.score(prompts), self.options
        self.calibration = Calibration(scores, alpha=chosen.alpha, delta=chosen.delta)

    def score(self, prompts: Sequence[str]) -> Floats:
        """Return suspicion (n,), in order; larger is more suspicious; n = 0 is allowed."""
        from peftlab.nn.generation import generate

        if not prompts:
            return np.zeros(0)
        made = generate(
            self.model, self._prompts(prompts), self.options.length,
            pad_id=self._pad_id(), ends=self._ends(),
        )  # fmt: skip
        if self.options.score == "max_prob":
            return np.asarray(np.nanmean(made.top, axis=1))
        return np.asarray(-np.nanmean(made.entropy, axis=1))

    def judge(self, prompts: Sequence[str]) -> Verdicts:
        """Return scores, conformal p-values and flags, in order.

        Raises:
            ConfigError: ``GENERATION-UNCALIBRATED``.
        """
        if self.calibration is None:
            raise ConfigError(
                "this guard has no threshold yet",
                code="GENERATION-UNCALIBRATED", fix="call calibrate with clean prompts",
            )  # fmt: skip
        scores = Scores(self.score(prompts))
        return Verdicts(
            scores.values, p_values(self.calibration, scores), flags(self.calibration, scores)
        )

    # ------------------------------------------------------------ tokens

    def _prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return prompts as token rows that leave room for the response, each at least one."""
        from peftlab.nn.prompted import open_rows
        from peftlab.nn.text import room_for_text, sound_texts

        room = room_for_text(self.model) - self.options.length
        if room < 1:
            raise ConfigError(
                "the model has no room for a prompt before the tokens that are scored",
                code="GENERATION-LONG", got=self.options.length, fix="choose a smaller length",
            )  # fmt: skip
        start = next(
            token for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, 0)
            if token is not None
        )  # fmt: skip
        rows = open_rows(self.tokenizer, sound_texts(texts, room))
        return [row[:room] or [start] for row in rows]

    def _responses(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the first tokens of responses, with the end of text where it is among them."""
        from peftlab.nn.text import sound_texts

        sound = sound_texts(texts, self.options.length)
        rows = self.tokenizer(sound, add_special_tokens=False, verbose=False)["input_ids"]
        ends = self._ends()[:1]
        if not ends and not all(rows):
            raise ConfigError(
                "a response is empty, and this base has no end-of-text token",
                code="GENERATION-EMPTY", fix="leave out pairs without a response",
            )  # fmt: skip
        return [[*row, *ends][: self.options.length] for row in rows]

    def _ends(self) -> list[int]:
        """Return the tokenizer's end of text, then those that the model's settings add."""
        more = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        listed = more if isinstance(more, list) else [more]
        found = [self.tokenizer.eos_token_id, *listed]
        return list(dict.fromkeys(int(each) for each in found if each is not None))

    def _pad_id(self) -> int:
        from peftlab.nn.text import pad_id_of

        return pad_id_of(self.model, self.tokenizer)

    # ------------------------------------------------------------ save, load

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the adapter, the options and the calibration; all or nothing."""
        from safetensors.torch import save_file

        state = {name: weight.cpu().contiguous() for name, weight in _trained(self.model).items()}
        with new_folder(Path(folder), overwrite=overwrite) as part:
            save_file(state, part / ADAPTER)
            calibration = None if self.calibration is None else self.calibration.to_dict()
            write_json(
                part / FILE,
                {
                    "format": FORMAT, **self.about, "calibration": calibration,
                    "options": self.options.model_dump(mode="json"),
                },
            )  # fmt: skip

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, allow_poisoned: bool = False) -> PsimGeneration:
        """Load a guard that ``save_pretrained`` wrote.

        Raises:
            InputRejected: ``GENERATION-STATE`` for files that are not as they were written,
                ``GUARD-BASE`` when the base has changed since, or the codes of ``load_causal``.
        """
        place = Path(folder)
        about = _read_about(place)
        if fingerprint(about["base"]) != about["base_fingerprint"]:
            raise InputRejected(
                "the base is not the one that this guard was fitted on",
                code="GUARD-BASE", got=about["base"],
                fix="restore the base, or fit the guard again",
            )  # fmt: skip
        calibration = about.pop("calibration")
        chosen = parse_options(GenerationOptions, about.pop("options"), "generation guard")
        model, tokenizer = load_causal(about["base"], allow_poisoned=allow_poisoned)
        wrapped = _with_adapter(model, chosen.rank, about["seed"])
        _fill(wrapped, place)
        guard = cls(wrapped.eval(), tokenizer, chosen, about)
        if calibration is not None:
            guard.calibration = Calibration.from_dict(calibration)
        return guard


def others(n: int, seed: int) -> Ints:
    """Return for each of n pairs the number of another one; each is given once.

    Examples:
        >>> found = others(5, seed=0)
        >>> sorted(found.tolist()), bool((found == np.arange(5)).any())
        ([0, 1, 2, 3, 4], False)
    """
    order = stream(seed, "psim/responses").permutation(n)
    found = np.empty(n, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found


def _with_adapter(model: Any, rank: int, seed: int) -> Any:
    """Return the model with a fresh LoRA on all linear layers but the last."""
    import torch
    from peft import LoraConfig, get_peft_model

    # no dropout: scores must repeat, and there is nothing to overfit
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, lora_dropout=0.0,
        target_modules="all-linear",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "adapter"))
        return get_peft_model(model, config)


def _trained(model: Any) -> dict[str, Any]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _fill(model: Any, place: Path) -> None:
    """Put the saved weights into the adapter; each must be there in its shape, and no other."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(place / ADAPTER)
    except (OSError, SafetensorError) as error:
        raise _unsound(place, str(error)[:200]) from error
    wanted = _trained(model)
    odd = sorted(
        name for name in wanted.keys() | state.keys()
        if name not in wanted or name not in state or wanted[name].shape != state[name].shape
    )  # fmt: skip
    if odd:
        raise _unsound(place, f"{len(odd)} tensors do not fit, such as {odd[0]}"[:200])
    for name, weight in wanted.items():
        weight.copy_(state[name])


def _read_about(place: Path) -> dict[str, Any]:
    """Return the content of the guard's JSON, its fields checked for presence and type."""
    about: Any = read_json(place / FILE, limit_bytes=STATE_LIMIT)
    wanted = {
        "base": str, "base_fingerprint": str, "seed": int, "options": dict,
        "calibration": (dict, type(None)),
    }  # fmt: skip
    if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
        raise _unsound(place, f"format is not {FORMAT}")
    odd = [
        key for key, kind in wanted.items()
        if key not in about or not isinstance(about[key], kind)  # type: ignore[arg-type]
    ]  # fmt: skip
    if odd:
        raise _unsound(place, f"missing or of a wrong type: {', '.join(odd)}")
    try:
        parse_options(GenerationOptions, about["options"], "generation guard")
    except PeftlabError as error:
        raise _unsound(place, error.what[:200]) from error
    found: dict[str, Any] = about
    return found


def _unsound(place: Path, got: str) -> InputRejected:
    return InputRejected(
        f"{place} is not a generation guard as save_pretrained writes it",
        code="GENERATION-STATE", got=got, fix="restore the folder, or fit the guard again",
    )  # fmt: skip
