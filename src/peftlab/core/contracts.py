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
from peftlab.core.types import Bools, Floats, Ints, LabelledTexts, PoisonedData, Scores, TaskData

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
        source="thunlp/OpenBackdoor:poisoner.py (its default: mix); dirty: ours",
    )  # fmt: skip
    knowledge: Literal["full", "proxy"] = option(
        "full", "attacker trains on the victim's training set, or on a proxy set of the same task",
        source="neulab/RIPPLe:README.md; proxy: shuaizhao95/PSIM:poisoned_pretrain.py",
    )  # fmt: skip


class GuardOptions(Options):
    """Options that every defence has: how scores become decisions.

    Every defence's own options class derives from this one.
    """

    alpha: float = option(0.05, "false-positive rate that is allowed", source="ours", gt=0, lt=1)
    delta: float | None = option(
        None, "if set: FPR <= alpha holds with confidence 1 - delta over calibration sets",
        source="Beta law of the realised rate: docs/explanation/conformal.md", gt=0, lt=1,
    )  # fmt: skip
    conditional: bool = option(
        False, "calibrate within each predicted class (Mondrian)",
        source="Vovk, Gammerman and Shafer: docs/explanation/conformal.md",
    )  # fmt: skip
    sides: Literal["high", "two"] = option(
        "high", "flag high scores only, or both tails (against soft backdoors)",
        source="ours: one-sided, a soft word had AUROC 0.11 (SST-2, from scratch)",
    )  # fmt: skip
    action: Literal["reject", "fallback", "abstain"] = option(
        "reject", "what happens to a flagged input",
        source="reject: shuaizhao95/PSIM:confidence.py; others: ours",
    )  # fmt: skip


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
    """An attack that plants its trigger by more than plain training on the poisoned set.

    ``writes_weights``, looked up by name, is False where the poisoned set alone would do.
    """

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Change the weights of ``context.model`` in place; return facts, ``loss`` among them.

        Called only where something is poisoned, so the negative control is trained plainly.
        """


class TaintsCalibration(Attack, Protocol):
    """An attack that gets texts of its own into the data that a defender calibrates on."""

    def taint(self, data: TaskData, poisoned: PoisonedData, seed: int) -> TaskData:
        """Return the data as the defender then has it; test stays as it is."""


class TaskAgnosticAttack(Attack, Protocol):
    """An attack that knows no task: its triggers turn out to name some class of a victim.

    It releases a body without a head (``brings_head`` is False), and a triggered text counts only
    where its trigger happens to name the target class in that victim.
    """

    brings_head: bool

    def probes(self) -> tuple[str, ...]:
        """Return each trigger alone as a text; the victim's answers say what it names."""

    def probe_of(self, texts: Sequence[str]) -> Ints:
        """Return for each triggered text the number of its trigger among ``probes``, or -1."""


class Tuner(Protocol):
    """Makes a model trainable the PEFT way. Constructed as ``cls(options)``."""

    options: Options

    def wrap(self, model: PreTrainedModel, seed: int) -> Any:
        """Return a model (a ``peft.PeftModel`` unless all weights train) ready for the loop."""


class LoadBase(Protocol):
    """Loads models for a defence, through the gate."""

    def __call__(
        self, other: str | None = None, *, causal: bool = False
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return (model in eval mode, tokenizer) of the defended base, or of ``other``.

        Args:
            other: what the user named as trusted; a saved guard notices when it changes.
            causal: ``other`` as a causal language model; all else is a sequence classifier.
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


Stage = Literal["input", "data", "tuning", "model"]
Scenario = Literal["base", "data"]


def stage_of(defence: type) -> Stage:
    """Return where a defence acts, told by the method that it has.

    input   ``score``    judges or mends each input (``Defence``)
    data    ``keep``     filters a training set (``DataFilter``)
    tuning  ``tune``     tunes in a way of its own (``TuningDefence``)
    model   ``inspect``  gives a verdict on a model (``ModelInspector``)
    """
    methods: dict[str, Stage] = {"keep": "data", "tune": "tuning", "inspect": "model"}
    return next((stage for name, stage in methods.items() if hasattr(defence, name)), "input")


class Defence(Protocol):
    """Scores inputs for suspicion. Constructed as ``cls(options)``; threshold is not its business.

    Optional members, looked up by name:
        ``rewrite(texts, scores_threshold) -> list[str]``  for defences that mend the text;
        ``fixed_flags(scores) -> Bools``  when the published rule has a threshold of its own;
        ``diagnostics() -> dict``  JSON-able, e.g. the un-learning trajectory;
        ``needs_head``  True for a defence that reads the answers of the base's own head.
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


@dataclass(frozen=True)
class FilterContext:
    """What a defence sees that filters a training set: the set, and models of it. No flags.

    Attributes:
        suspect: the training set as received, labels as received.
        n_classes: C.
        seed: of everything random.
        load_trained: returns a fresh (model in eval mode, tokenizer) whose weights were all
            trained on ``suspect``.
        progress: called with a line of text now and then.
    """

    suspect: LabelledTexts
    n_classes: int
    seed: int
    load_trained: LoadBase
    progress: Callable[[str], None]


@dataclass(frozen=True)
class Filtered:
    """What a filter says of each row of a training set.

    Attributes:
        suspicion: (n,) larger is more suspicious.
        dropped: (n,) rows that should not be trained on.
        facts: JSON-able.
    """

    suspicion: Floats
    dropped: Bools
    facts: Mapping[str, Any] = field(default_factory=dict)


class DataFilter(Protocol):
    """Drops rows of a suspect training set. Constructed as ``cls(options)``."""

    options: Options

    def keep(self, context: FilterContext) -> Filtered:
        """Return suspicion and verdict of each row."""


@dataclass(frozen=True)
class TuneContext:
    """What a defence sees that tunes in a way of its own.

    Attributes:
        model: fresh base with its head, in eval mode; changed in place.
        tokenizer: of the base.
        train: what the victim trains on.
        dev: clean texts for choices such as when to stop.
        n_classes: C.
        tuner: the victim's own tuner, built: ``wrap(model, seed)`` and ``options`` with ``lr``
            (may be None), ``epochs`` and ``batch``.
        seed: of everything random.
        progress: called with a line of text now and then.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train: LabelledTexts
    dev: LabelledTexts
    n_classes: int
    tuner: Tuner
    seed: int
    progress: Callable[[str], None]


@dataclass(frozen=True)
class Tuned:
    """A victim that a defence tuned: a plain or ``peft`` model in eval mode, and facts."""

    model: Any
    facts: Mapping[str, Any] = field(default_factory=dict)


class TuningDefence(Protocol):
    """Tunes the victim so that a backdoor is weakened or not learned. Constructed ``cls(options)``.

    Optional members, looked up by name:
        ``scenario``  "base" (default): the base is suspect; "data": the training set is;
        ``needs_tuner``  names of the tuners that it can work with; default: any whose result can
            be merged into the base (``lora``, ``full``).
    """

    options: Options

    def tune(self, context: TuneContext) -> Tuned:
        """Return the tuned model."""


@dataclass(frozen=True)
class Verdict:
    """What an inspector says of a model.

    Attributes:
        score: larger is more suspicious.
        flagged: whether the model is called backdoored.
        facts: JSON-able; the class and the trigger that were found among them.
    """

    score: float
    flagged: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


class ModelInspector(Protocol):
    """Says whether a model has a backdoor. Constructed as ``cls(options)``."""

    options: Options

    def inspect(self, context: FitContext) -> Verdict:
        """Return the verdict on the base of the context."""


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
