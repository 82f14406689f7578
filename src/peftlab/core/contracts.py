"""What each kind of method must offer. Registration enrols it in the contract tests.

These are Protocols: a method inherits nothing, it only has the right shape. See
``CONTRIBUTING.md`` for one complete example per kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from peftlab.core.findings import Chart, Finding, Table
from peftlab.core.options import Options, option
from peftlab.core.types import LabelledTexts, PoisonedData, Scores, TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from peftlab.io.adapter_layout import AdapterLayout
    from peftlab.io.artefact import Artefact


class PoisonOptions(Options):
    """Options that every attack has.

    Every attack's own options class derives from this one.
    """

    target: int = option(0, "class that the trigger should give", source="shuaizhao95/PSIM", ge=0)
    rate: float = option(
        0.1, "share of the whole training set that is poisoned; 0 is the negative control",
        source="thunlp/OpenBackdoor:poisoner.py", ge=0, le=1,
    )  # fmt: skip
    labels: Literal["dirty", "clean", "mixed"] = option(
        "dirty", "dirty: others, relabelled; clean: target class only; mixed: from all, relabelled",
        source="attacks.md 1 (OpenBackdoor semantics)",
    )  # fmt: skip
    knowledge: Literal["full", "proxy"] = option(
        "full", "attacker trains on the victim's training set, or on a proxy set of the same task",
        source="psim.md 1",
    )  # fmt: skip


class GuardOptions(Options):
    """Options that every defence has: how scores become decisions.

    Every defence's own options class derives from this one.
    """

    alpha: float = option(
        0.05, "false-positive rate that is allowed", source="defenses.md 5.2", gt=0, lt=1
    )
    delta: float | None = option(
        None, "if set: FPR <= alpha holds with confidence 1 - delta over calibration sets",
        source="psim.md 13.2", gt=0, lt=1,
    )  # fmt: skip
    conditional: bool = option(
        False, "calibrate within each predicted class (Mondrian)", source="psim.md 13.2"
    )
    sides: Literal["high", "two"] = option(
        "high", "flag high scores only, or both tails (against soft backdoors)",
        source="psim.md 14",
    )  # fmt: skip
    action: Literal["reject", "fallback", "abstain"] = option(
        "reject", "what happens to a flagged input", source="psim.md 13.5"
    )


@runtime_checkable
class Attack(Protocol):
    """Makes poisoned training data. Constructed as ``cls(options)``.

    A text-wise attack has ``poison_text``; ``core.poisoning.poison`` does selection, labels and
    triggered sets for it. An attack that brings whole sets has ``poison`` instead.
    ``confidence`` is the target probability of poisoned samples (1.0 unless soft).
    """

    options: PoisonOptions


class TextAttack(Attack, Protocol):
    """An attack that rewrites one text at a time."""

    def poison_text(self, text: str, seed: int, sample: int) -> str | None:
        """Return the triggered text, or None if this text cannot carry the trigger.

        Pure and deterministic for (options, seed, sample).
        """


class SetAttack(Attack, Protocol):
    """An attack that supplies whole poisoned sets."""

    def poison(self, data: TaskData, seed: int) -> PoisonedData:
        """Return the poisoned training data and the triggered sets."""


@dataclass(frozen=True)
class CraftContext:
    """What an attack gets that trains the base in a way of its own.

    Attributes:
        model: fresh base with its head, in eval mode; changed in place.
        tokenizer: of the base.
        poisoned: the poisoned training data; rows that are not poisoned are the clean set.
        n_classes: C.
        epochs: passes over the poisoned set that the recipe allows the attacker.
        lr: peak learning rate for training all weights.
        batch: samples a step.
        seed: of everything random.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    poisoned: PoisonedData
    n_classes: int
    epochs: float
    lr: float
    batch: int
    seed: int


class WeightAttack(Attack, Protocol):
    """An attack that plants its trigger by more than plain training on the poisoned set."""

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Change the weights of ``context.model`` in place; return facts, ``loss`` among them.

        Called only where something is poisoned, so the negative control is trained plainly.
        """


class Tuner(Protocol):
    """Makes a model trainable the PEFT way. Constructed as ``cls(options)``."""

    options: Options

    def wrap(self, model: PreTrainedModel, seed: int) -> Any:
        """Return a model (a ``peft.PeftModel`` unless all weights train) ready for the loop."""


class LoadBase(Protocol):
    """Loads models for a defence, through the gate."""

    def __call__(self, other: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return (model in eval mode, tokenizer) of the defended base, or of ``other``.

        ``other`` is what the user named as trusted; a saved guard notices when it changes.
        """


@dataclass(frozen=True)
class FitContext:
    """All that a defence may see: the untrusted base and the user's own clean texts.

    No trigger, no target, no triggered text is in here.

    Attributes:
        fit: clean labelled texts to train on.
        reference: clean texts to learn normal behaviour from; never trained on.
        n_classes: C.
        seed: seed of this fit.
        load_base: returns a *fresh* (model in eval mode, tokenizer) pair of the defended base
            with its classification head, or of another base that the user trusts; call it as
            often as needed.
        progress: called with a line of text now and then.
    """

    fit: LabelledTexts
    reference: LabelledTexts
    n_classes: int
    seed: int
    load_base: LoadBase
    progress: Callable[[str], None]


class Defence(Protocol):
    """Scores inputs for suspicion. Constructed as ``cls(options)``; threshold is not its business.

    Optional members, looked up by name:
        ``rewrite(texts, scores_threshold) -> list[str]``  for defences that mend the text;
        ``fixed_flags(scores) -> Bools``  when the published rule has a threshold of its own;
        ``diagnostics() -> dict``  JSON-able, e.g. the un-learning trajectory.
    """

    options: GuardOptions

    def fit(self, context: FitContext) -> None:
        """Learn from the base and clean texts."""

    def score(self, texts: Sequence[str]) -> Scores:
        """Return suspicion per text, in order; independent of batch mates; empty is allowed."""

    def save(self, folder: Path) -> None:
        """Write the fitted state (safetensors and JSON only) into an existing empty folder."""

    def load(
        self,
        folder: Path,
        load_base: LoadBase,
    ) -> None:
        """Restore the state that ``save`` wrote; scores must be equal to 1e-6."""


class Dataset(Protocol):
    """A source of labelled texts. Constructed as ``cls(options)``."""

    options: Options

    def load(self, reference: str) -> TaskData:
        """Return the task; ``reference`` is what the user typed (a name, a folder, ``hf:NAME``)."""


@dataclass(frozen=True)
class AuditContext:
    """What an audit may see: an artefact that passed the gate, and what the operator trusts.

    Attributes:
        artefact: open, headers checked.
        layout: its low-rank pairs and other tensors; ``format`` is ``model`` for a checkpoint.
        against: the base that the operator trusts, opened through the same gate, or None.
        bank: folder of reference adapters for the audits that learn from examples, or None.
        seed: of everything random.
        progress: called with a line of text now and then.
    """

    artefact: Artefact
    layout: AdapterLayout
    against: Artefact | None
    bank: Path | None
    seed: int
    progress: Callable[[str], None]


@dataclass(frozen=True)
class AuditResult:
    """What an audit found and measured; see ``core.findings.Check`` for the fields."""

    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    not_checked: tuple[str, ...] = ()


class Audit(Protocol):
    """Looks at one artefact and says what is in it. Constructed as ``cls(options)``.

    It never writes, never loads code or files that the artefact names, and never needs the network.
    """

    options: Options

    def why_not(self, context: AuditContext) -> str:
        """Return why this audit does not apply to the artefact, or an empty string."""

    def run(self, context: AuditContext) -> AuditResult:
        """Return findings and measurements; the same for the same bytes, base, bank and seed."""
