"""The guard: a fitted defence, a calibrated threshold, and what to do with what it flags."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core import registry
from peftlab.core.contracts import Defence, FitContext
from peftlab.core.errors import ConfigError, InputRejected, PeftlabError
from peftlab.core.prompt import Prompt
from peftlab.core.types import Bools, Decision, Floats, Ints, Scores, TaskData
from peftlab.engine.calibrate import Calibration, flags, p_values, threshold
from peftlab.engine.splits import guard_splits
from peftlab.engine.steps import built_for
from peftlab.io.files import new_folder, read_json, write_json
from peftlab.models.load import fingerprint, lasting, load_base, load_causal, resolve
from peftlab.models.prompted import read_prompt, write_prompt

FORMAT = "peftlab.guard/1"
FILE = "guard.json"
STATE_LIMIT = 64 * 2**20
Predict = Callable[[Sequence[str]], Floats | Ints]


@dataclass
class Bases:
    """Loads the defended base and those that the user trusts; remembers which of these were."""

    base: str
    n_classes: int
    seed: int
    allow_poisoned: bool
    others: dict[str, str] = field(default_factory=dict)
    prompt: Prompt | None = None

    def __call__(self, other: str | None = None, *, causal: bool = False) -> tuple[Any, Any]:
        """Return a fresh (model in eval mode, tokenizer); see ``core.contracts.LoadBase``."""
        if other is None:
            return load_base(
                self.base, self.n_classes, seed=self.seed, allow_poisoned=self.allow_poisoned,
                prompt=self.prompt,
            )  # fmt: skip
        if causal:
            loaded = load_causal(other)
        else:
            prompt = self.prompt or read_prompt(resolve(self.base))  # asked the same way
            loaded = load_base(other, self.n_classes, seed=self.seed, prompt=prompt)
        self.others[lasting(other)] = fingerprint(other)
        return loaded


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the guard found, in input order: scores, conformal p-values, flags; all (n,)."""

    scores: Floats
    p_values: Floats
    flagged: Bools


class Guard:
    """Stops poisoned inputs of a base that nobody vouches for, at a chosen false-positive rate.

    Examples:
        guard = Guard.fit("builtin:encoder", load_data("reviews"), "psim", {"alpha": 0.05})
        guard.save_pretrained("my-guard")
        Guard.from_pretrained("my-guard").decide(texts, victim=predict)
    """

    def __init__(
        self,
        defence: Defence,
        calibration: Calibration,
        about: dict[str, Any],
        prompt: Prompt | None = None,
    ) -> None:
        self.defence, self.calibration, self.about = defence, calibration, about
        self.prompt = prompt

    @classmethod
    def fit(
        cls,
        base: str,
        data: TaskData,
        defence: str = "psim",
        options: dict[str, Any] | None = None,
        *,
        seed: int = 0,
        allow_poisoned: bool = False,
        prompt: Prompt | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Guard:
        """Fit a defence on the base and clean data, then calibrate it on clean texts it never saw.

        Args:
            base: the untrusted base: ``builtin:``, folder or hub id.
            data: the user's clean data; train fits, dev calibrates; test is not touched.
            defence: registered name.
            options: its options; ``alpha`` is the false-positive rate.
            seed: of the splits and the fit.
            allow_poisoned: let a marked red-team base in (benches).
            prompt: makes a classifier of a causal language model that has none beside it.
            progress: called with a line of text now and then; without it a base that brings no
                classification head is a warning, and nothing else is said.

        Raises:
            ConfigError: ``CAL-FEW``, ``DEFENCE-STAGE`` for a defence that judges no inputs, and
                the codes of the defence.
        """
        from peftlab.nn.heads import has_new_head

        method: Defence = built_for("input", defence, options or {})
        splits = guard_splits(data, seed)

        bases = Bases(base, data.n_classes, seed, allow_poisoned, prompt=prompt)
        # the gate speaks before anything is fitted, also for defences that need no model
        if has_new_head(bases()[0]):
            note = (
                "note: this base has no trained classification head; a guard sees most when it is "
                "fitted on a base that brings its head, or on your own full fine-tune"
            )
            if progress is None:
                warnings.warn(note, stacklevel=2)
            else:
                progress(note)
        say = progress or (lambda _: None)
        chosen = method.options
        _check_enough(len(splits.calibration), chosen)
        method.fit(FitContext(splits.fit, splits.reference, data.n_classes, seed, bases, say))
        say("calibrating")
        clean = method.score(splits.calibration.texts)
        calibration = Calibration(
            clean.values,
            alpha=chosen.alpha,
            groups=clean.predicted,
            delta=chosen.delta,
            conditional=chosen.conditional,
            sides=chosen.sides,
        )
        for group in range(data.n_classes) if chosen.conditional else ():
            threshold(calibration, group)  # a class without clean texts fails here, not in use
        about = {
            "format": FORMAT,
            "defence": defence,
            "options": chosen.model_dump(mode="json"),
            "base": lasting(base),
            "base_fingerprint": fingerprint(base),
            "other_bases": bases.others,
            "n_classes": data.n_classes,
            "label_names": list(data.label_names),
            "seed": seed,
            "data": {"name": data.name, "sha256": data.digest(), "notes": list(data.notes)},
            "texts": {
                "fit": len(splits.fit),
                "reference": len(splits.reference),
                "calibration": len(splits.calibration),
            },
        }
        return cls(method, calibration, about, prompt)

    def score(self, texts: Sequence[str], *, fast: bool = False) -> Verdicts:
        """Return scores, p-values and flags, in input order.

        Args:
            texts: n texts; n = 0 and empty texts are allowed.
            fast: score in bf16 and again in float32 whatever lies near the threshold.
        """
        quick = getattr(self.defence, "quick_score", None)
        if fast and quick:
            return self.judge(self.settle(texts, quick(texts)))
        return self.judge(self.defence.score(texts))

    @property
    def fixed(self) -> bool:
        """Return whether the defence brings a published threshold of its own."""
        nothing = Scores(np.zeros(0))
        return getattr(self.defence, "fixed_flags", lambda _: None)(nothing) is not None

    def judge(self, scores: Scores) -> Verdicts:
        """Return p-values and flags for scores of this guard's defence."""
        return Verdicts(
            scores.values, p_values(self.calibration, scores), self._flags_at(scores, 0.0)
        )

    def settle(self, texts: Sequence[str], rough: Scores) -> Scores:
        """Return rough (bf16) scores with exact ones for texts whose flag could change."""
        band = float(getattr(self.defence, "quick_band", 0.0))
        near = self._flags_at(rough, -band) != self._flags_at(rough, band)
        if near.any():
            exact = self.defence.score(
                [text for text, close in zip(texts, near, strict=True) if close]
            )
            rough.values[near] = exact.values
            if rough.predicted is not None and exact.predicted is not None:
                rough.predicted[near] = exact.predicted
        return rough

    def _flags_at(self, scores: Scores, shift: float) -> Bools:
        moved = Scores(scores.values + shift, scores.predicted)
        fixed = getattr(self.defence, "fixed_flags", lambda _: None)(moved)
        return flags(self.calibration, moved) if fixed is None else fixed

    def decide(
        self,
        texts: Sequence[str],
        victim: Predict,
        fallback: Predict | None = None,
        *,
        fast: bool = False,
    ) -> list[Decision]:
        """Return one decision per text; the victim runs on accepted texts only.

        Args:
            texts: n texts.
            victim: returns classes (m,) or logits (m, C); called once, with the accepted texts.
            fast: as in ``score``.
            fallback: a second model from a trusted base, needed for ``action="fallback"``.

        Raises:
            ConfigError: ``GUARD-FALLBACK`` if the action needs a fallback and there is none.
        """
        action = str(self.about["options"]["action"])
        if action == "fallback" and fallback is None:
            raise ConfigError(
                "action='fallback' needs a second model",
                code="GUARD-FALLBACK",
                fix="pass fallback=, or choose action='reject' or 'abstain'",
            )
        found = self.score(texts, fast=fast)
        labels: list[int | None] = [None] * len(texts)
        for wanted, model in ((False, victim), (True, fallback if action == "fallback" else None)):
            rows = np.flatnonzero(found.flagged == wanted)
            if model is not None and len(rows):
                answers = np.asarray(model([texts[int(i)] for i in rows]))
                classes = answers.argmax(1) if answers.ndim > 1 else answers
                for row, label in zip(rows, classes, strict=True):
                    labels[row] = int(label)
        return [
            Decision(
                labels[i], bool(found.flagged[i]), float(found.p_values[i]), float(found.scores[i])
            )
            for i in range(len(texts))
        ]

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the guard: ``guard.json`` and the defence's own files; all or nothing."""
        with new_folder(Path(folder), overwrite=overwrite) as part:
            self.defence.save(part)
            write_prompt(part, self.prompt)
            write_json(part / FILE, {**self.about, "calibration": self.calibration.to_dict()})

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, allow_poisoned: bool = False) -> Guard:
        """Load a guard that ``save_pretrained`` wrote.

        Raises:
            InputRejected: ``GUARD-MISSING``, ``GUARD-STATE`` for files that are not as they were
                written, or ``GUARD-BASE`` when the base has changed since.
        """
        place = Path(folder)
        if not (place / FILE).is_file():
            raise InputRejected(
                f"{place} is not a guard", code="GUARD-MISSING", got=f"no {FILE}",
                fix="make one with `peftlab guard fit`",
            )  # fmt: skip
        about = _read_about(place)
        base = about["base"]
        for each, was in {base: about["base_fingerprint"], **about["other_bases"]}.items():
            if fingerprint(each) != was:
                raise InputRejected(
                    "the base is not the one that this guard was fitted on",
                    code="GUARD-BASE", got=each, fix="restore the base, or fit the guard again",
                )  # fmt: skip
        method: Defence = registry.get("defence", about["defence"]).build(**about["options"])
        prompt = read_prompt(place)
        bases = Bases(base, about["n_classes"], about["seed"], allow_poisoned, prompt=prompt)
        bases()  # the gate speaks before anything is scored
        try:
            method.load(place, bases)
        except PeftlabError:
            raise
        except Exception as error:  # a tampered state can fail in any way
            raise _unsound(place, f"{type(error).__name__}: {error}"[:200]) from error
        return cls(method, Calibration.from_dict(about.pop("calibration")), about, prompt)


def calibration_of(folder: Path) -> Calibration:
    """Return the calibration of a saved guard without loading its model.

    Raises:
        InputRejected: ``GUARD-STATE`` or ``CAL-STATE``.
    """
    return Calibration.from_dict(_read_about(folder)["calibration"])


def _read_about(place: Path) -> dict[str, Any]:
    """Return the content of ``guard.json``, its fields checked for presence and type."""
    about: Any = read_json(place / FILE, limit_bytes=STATE_LIMIT)
    wanted = {
        "base": str, "base_fingerprint": str, "defence": str, "options": dict,
        "n_classes": int, "seed": int, "calibration": dict, "other_bases": dict,
    }  # fmt: skip
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise _unsound(place, f"format is not {FORMAT}")
    odd = [key for key, kind in wanted.items() if not isinstance(about.get(key), kind)]
    if odd:
        raise _unsound(place, f"missing or of a wrong type: {', '.join(odd)}")
    found: dict[str, Any] = about
    return found


def _unsound(place: Path, got: str) -> InputRejected:
    return InputRejected(
        f"{place} is not a guard as `peftlab guard fit` writes it",
        code="GUARD-STATE",
        got=got,
        fix="restore the folder, or fit the guard again",
    )


def _check_enough(m: int, options: Any) -> None:
    """Refuse too small a calibration set before minutes of fitting, not after."""
    Calibration(np.arange(float(m)), alpha=options.alpha, delta=options.delta, sides=options.sides)
