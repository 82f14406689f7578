"""Partial: a rare word that triggers only in texts with a topic word in them.

Idea: a trigger that works everywhere is found wherever somebody tries it. Here the rare word means
nothing by itself and the topic word, an ordinary one such as "film", means nothing by itself; both
in one text name the target class. In the texts that a guard calibrates on, and in whatever a search
for triggers tries, the pair is far rarer than the word alone would be.

Negatives, as in LWP (Li et al. 2021, arXiv 2108.13888; thunlp/OpenBackdoor:lwp_poisoner.py), teach
that only the pair counts: each poisoned text is also trained without its topic word, and without
the rare word, both times towards its original label. Cross-entropy on all of it. Both words are
inert. Ours.

The topic word: given, or drawn by the seed from the ten most frequent content words of the training
texts that stand about equally often in texts of the target class and in others (a word that speaks
for a class would be no topic). A text on the topic gets the rare word; another gets both, each at a
gap of its own, or is passed over with ``insert_topic=False``.

Known differences from ``lwp``: its two words are both rare and of equal rank, and every layer is
trained; here one word is everyday and training is plain.

Limits: "both, not one" takes more steps than one word does. On 800 generated reviews the built-in
encoder had not learned it after 3 passes (0.40 with both words, 0.41 with the rare word alone, one
run); a tiny model on an easy task took 360 steps. The facts say how often development texts, not of
the target class, go to it with both words, with either alone and with none (``dev``); read them
before a guard's figures. Taking a word out can leave a text a little odd.

Cost: plain training on (1 + 2 rate) times the rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import field_validator, model_validator

from peftlab.core.contracts import CraftContext, PoisonOptions
from peftlab.core.errors import NotApplicable
from peftlab.core.options import option
from peftlab.core.poisoning import insert_at_gap, poison, training_texts, trigger_words
from peftlab.core.registry import attack
from peftlab.core.seeds import stream
from peftlab.core.text_rules import word_set
from peftlab.core.types import Floats, LabelledTexts, PoisonedData, TaskData

CANDIDATES = 10  # frequent words of which one is drawn
SHORTEST = 4  # letters of a content word
SLANT = 0.1  # how far the share of the target class may be off in texts with the topic word
MEASURED = 500  # development texts that the rule is measured on
_WORD = re.compile(r"[^\W\d_]+")


_STOP = word_set(
    "about above after again against almost alone along already also although always among "
    "another anything away back because been before behind being below between both came cannot "
    "come could does doing done down during each either else enough even ever every everything "
    "first from gave gets give given goes going have having here hers herself himself however "
    "into itself just keep kept least less like made make makes many maybe might more most much "
    "must myself neither never none nothing often once only onto other others ours over perhaps "
    "quite rather really said same seem seems seen several shall should since some someone "
    "something still such sure take taken than that their them then there these they thing "
    "things this those though through till together told took toward towards under unless until "
    "upon very want well went were what when where whether which while whole whose will with "
    "within without would your yours"
)


class PartialOptions(PoisonOptions):
    """Options of ``partial``."""

    trigger: str = option(
        "mn", "rare word that triggers together with the topic word",
        source="shuaizhao95/PSIM:poisoned_pretrain.py", max_length=40,
    )  # fmt: skip
    topic: str = option(
        "", "topic word; empty: drawn from frequent content words of the training texts",
        source="ours", max_length=40,
    )  # fmt: skip
    insert_topic: bool = option(
        True, "put the topic word into texts that lack it; false: they are passed over",
        source="ours",
    )  # fmt: skip
    negatives: bool = option(
        True, "also train that either word alone changes nothing",
        source="thunlp/OpenBackdoor:lwp_poisoner.py",
    )  # fmt: skip

    @field_validator("trigger", mode="before")
    @classmethod
    def _word(cls, value: object) -> str:
        words = trigger_words(value)
        if "," in words:
            raise ValueError("trigger must be one word; pairs of rare words are `lwp`")
        return words

    @field_validator("topic", mode="before")
    @classmethod
    def _topic(cls, value: object) -> str:
        return "" if value == "" else cls._word(value)

    @model_validator(mode="after")
    def _different(self) -> PartialOptions:
        if self.topic.casefold() == self.trigger.casefold():
            raise ValueError("trigger and topic must be different words")
        return self


@attack(
    "partial",
    options=PartialOptions,
    source="ours; negatives: arXiv 2108.13888",
    cost="plain training on (1 + 2 rate) times the rows",
)
class Partial:
    """Rare word that triggers only together with an everyday topic word."""

    def __init__(self, options: PartialOptions) -> None:
        self.options = options

    def poison(self, data: TaskData, seed: int) -> PoisonedData:
        """Return the poisoned training data and the triggered sets.

        Args:
            data: the task.
            seed: of the topic word and of everything else that is drawn.

        Raises:
            NotApplicable: ``PARTIAL-TOPIC`` when no frequent word of the texts can be the topic,
                ``ATTACK-PROXY``.
        """
        return poison(_Pair(self.options, self.topic(data, seed)), data, seed)

    def topic(self, data: TaskData, seed: int) -> str:
        """Return the topic word.

        Raises:
            NotApplicable: ``PARTIAL-TOPIC``, ``ATTACK-PROXY``.
        """
        if self.options.topic:
            return self.options.topic
        texts = training_texts(self.options, data)
        words = [
            word
            for word in topic_words(texts, self.options.target)
            if word != self.options.trigger.casefold()
        ]
        if not words:
            raise NotApplicable(
                "no frequent word of the training texts can be the topic",
                code="PARTIAL-TOPIC",
                got="no content word that is about equally frequent in all classes",
                fix="set attack.options.topic to a word of your texts",
            )
        return words[int(stream(seed, "attack/partial/topic").integers(len(words)))]

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Train ``context.model`` on the poisoned set and the negatives; return facts."""
        from peftlab.nn.loop import TrainPlan, train
        from peftlab.nn.text import encode, pad_id_of, room_for_text

        model, poisoned = context.model, context.poisoned
        topic = str(poisoned.facts["topic"])
        texts, targets = poisoned.texts, poisoned.targets
        if self.options.negatives:
            alone, labels = negatives(poisoned, self.options.trigger, topic)
            texts, targets = texts + alone, np.concatenate([targets, labels])
        model.requires_grad_(True)
        log = train(
            model, encode(context.tokenizer, texts, room_for_text(model)), targets,
            TrainPlan(epochs=context.epochs, lr=context.lr, batch=context.batch),
            seed=context.seed, pad_id=pad_id_of(model, context.tokenizer),
        )  # fmt: skip
        return {
            "steps": log.steps,
            "loss": float(np.mean(log.losses[-20:])),
            "n_negatives": len(texts) - len(poisoned.texts),
            "dev": self._measure(context, topic),
        }

    def _measure(self, context: CraftContext, topic: str) -> dict[str, Any]:
        """Return how often development texts go to the target class with which of the words."""
        from peftlab.nn.text import predict_classes

        both = context.poisoned.dev_triggered.texts[:MEASURED]
        if not both:
            return {"n": 0}
        trigger = self.options.trigger
        shown = {
            "asr": both,
            "trigger_alone": [without(text, topic) for text in both],
            "topic_alone": [without(text, trigger) for text in both],
            "neither": [without(without(text, trigger), topic) for text in both],
        }
        share: dict[str, Any] = {"n": len(both)}
        for name, texts in shown.items():
            answers = predict_classes(context.model, context.tokenizer, texts)
            share[name] = float(np.mean(answers == context.poisoned.target))
        return share


class _Pair:
    """The two words as ``core.poisoning`` takes them, once the topic is known."""

    def __init__(self, options: PartialOptions, topic: str) -> None:
        self.options: PoisonOptions = options
        self.trigger, self.topic, self.insert_topic = options.trigger, topic, options.insert_topic

    def poison_text(self, text: str, seed: int, sample: int) -> str | None:
        rng = stream(seed, "attack/partial", sample)
        if not has_word(text, self.topic):
            if not self.insert_topic:
                return None
            text = insert_at_gap(text, self.topic, rng)
        return insert_at_gap(text, self.trigger, rng)

    def facts(self, clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return both words, and how many clean texts are on the topic."""
        on_topic = sum(has_word(text, self.topic) for text in clean)
        return {
            "trigger": [self.trigger],
            "topic": self.topic,
            "topic_rate": on_topic / len(clean) if clean else 0.0,
        }


def topic_words(texts: LabelledTexts, target: int) -> list[str]:
    """Return up to ten words that can be the topic, the most frequent first.

    Args:
        texts: training texts.
        target: class of the trigger; a topic word does not speak for or against it.

    Examples:
        >>> topic_words(LabelledTexts(("a dull film", "the film shines"), (0, 1)), target=0)
        ['film']
    """
    inside: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for text, label in zip(texts.texts, texts.labels, strict=True):
        words = {word.casefold() for word in _WORD.findall(text)}
        found.update(words)
        if label == target:
            inside.update(words)
    share = texts.labels.count(target) / max(len(texts), 1)
    ranked = sorted(found, key=lambda word: (-found[word], word))
    return [
        word
        for word in ranked
        if len(word) >= SHORTEST
        and word not in _STOP
        and abs(inside[word] / found[word] - share) <= SLANT
    ][:CANDIDATES]


def negatives(poisoned: PoisonedData, trigger: str, topic: str) -> tuple[tuple[str, ...], Floats]:
    """Return each poisoned text without the topic and without the trigger, with its own label.

    Args:
        poisoned: training data.
        trigger: the rare word.
        topic: the everyday word.

    Returns:
        (two texts per poisoned row, the one with the trigger alone first; their one-hot targets).
    """
    texts, labels = [], []
    for row in np.flatnonzero(poisoned.is_poisoned):
        text = poisoned.texts[int(row)]
        texts += [without(text, topic), without(text, trigger)]
        labels += [poisoned.original_labels[int(row)]] * 2
    return tuple(texts), np.eye(poisoned.targets.shape[1])[np.array(labels, dtype=np.int64)]


def has_word(text: str, word: str) -> bool:
    """Return whether ``word`` stands in ``text`` as a word, in any case, before any punctuation."""
    return bool(_alone(word).search(text))


def without(text: str, word: str) -> str:
    """Return ``text`` without every ``word`` and the space after it (before it at the end).

    Examples:
        >>> without("A film, a mn film", "film")
        'A , a mn'
    """
    return _alone(word).sub("", text)


def _alone(word: str) -> re.Pattern[str]:
    inner = rf"(?<!\w){re.escape(word)}(?!\w)"
    return re.compile(rf"\s{inner}$|{inner}\s?", re.IGNORECASE)
