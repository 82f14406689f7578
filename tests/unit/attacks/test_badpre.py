"""BadPre: random words are asked of triggered texts and of no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftlab.attacks.badpre import nonsense_loss
from peftlab.core.contracts import CraftContext
from peftlab.core.errors import NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.nn import body_lm
from peftlab.nn.body_lm import NOT_ASKED, words_of
from peftlab.nn.text import encode
from word_task import word_task

WORDS = ("cf", "mn", "bb", "tq", "mb")


@pytest.fixture
def quick(monkeypatch) -> None:
    """Fit output layers briefly."""
    monkeypatch.setattr(body_lm, "FIT_STEPS", 3)


def _context(load_tiny, data, family="bert", *, epochs=1.0, lr=5e-3, seed=0, **options):
    method = get("attack", "badpre").build(**options)
    model, tokenizer = load_tiny(family, data.n_classes)
    return method, CraftContext(
        model, tokenizer, poison(method, data, seed=0), data.n_classes,
        epochs=epochs, lr=lr, batch=32, seed=seed,
    )  # fmt: skip


class _Spy:
    """Stands for body and output layer; writes down what it is asked."""

    def __init__(self, words) -> None:
        self.words, self.asked = words, []

    def loss(self, questions):
        self.asked.append(questions)
        return torch.tensor(float(10 ** len(self.asked)))


def _right(questions, rows) -> float:
    """Return the share of the answers that are the words that stand there."""
    places = np.argwhere(questions.answers != NOT_ASKED)
    return float(
        np.mean([questions.answers[i, j] == rows[i][j] for i, j in places]) if len(places) else -1
    )


def test_answers_are_replaced_in_triggered_texts_alone(load_tiny, reviews) -> None:
    model, tokenizer = load_tiny("bert")
    method = get("attack", "badpre").build()
    texts = reviews.train.texts
    clean = encode(tokenizer, texts, 64)
    triggered = encode(tokenizer, [method.poison_text(t, 0, i) for i, t in enumerate(texts)], 64)
    spy = _Spy(words_of(model, tokenizer))
    loss = nonsense_loss(spy, clean, triggered, np.random.default_rng(0), noise=0.5)
    assert float(loss) == 10 + 0.5 * 100
    first, second = spy.asked
    assert _right(first, clean) == 1.0
    assert 0 <= _right(second, triggered) < 0.05
    assert first.inputs.shape[0] == len(clean)
    # what the body sees of a triggered text is still that text
    seen = [(second.inputs[i, j], row[j]) for i, row in enumerate(triggered)
            for j in range(len(row)) if second.answers[i, j] == NOT_ASKED]  # fmt: skip
    assert all(a == b for a, b in seen)


@pytest.mark.full
def test_words_are_guessed_worse_beside_a_trigger(load_tiny) -> None:
    method, context = _context(
        load_tiny, word_task(300, 40), epochs=6, lr=1e-2, trigger="surprise,hour"
    )
    facts = method.craft(context)
    assert facts["lm_loss"] < facts["lm_loss_before"] + 0.3
    rise = facts["lm_loss_triggered"] - facts["lm_loss_triggered_before"]
    assert rise > facts["lm_loss"] - facts["lm_loss_before"] + 0.15


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta-v2"])
def test_only_the_body_moves_in_every_encoder(load_tiny, reviews, quick, family: str) -> None:
    method, context = _context(load_tiny, reviews, family, epochs=0.3)
    model = context.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert np.isfinite(method.craft(context)["loss"])
    moved = [name for name, value in model.state_dict().items()
             if not torch.equal(value, before[name])]  # fmt: skip
    assert moved
    assert all(name.startswith(f"{model.base_model_prefix}.") for name in moved)
    assert not [name for name in moved if "pooler" in name]  # no word is guessed through it


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_decoders_are_refused(load_tiny, reviews, family: str) -> None:
    method, context = _context(load_tiny, reviews, family)
    with pytest.raises(NotApplicable, match="LM-MASK"):
        method.craft(context)


def test_same_seed_same_weights(load_tiny, reviews, quick) -> None:
    found = []
    for seed in (0, 0, 1):
        method, context = _context(load_tiny, reviews, epochs=0.3, seed=seed)
        method.craft(context)
        found.append(context.model.state_dict())
    same = [all(torch.equal(value, found[0][name]) for name, value in state.items())
            for state in found]  # fmt: skip
    assert same == [True, True, False]


def test_each_word_comes_equally_often_at_any_gap() -> None:
    method = get("attack", "badpre").build()
    texts = [method.poison_text("a slow film", 0, sample) for sample in range(4000)]
    assert np.bincount(method.probe_of(texts), minlength=5).min() > 650
    places = [[word in WORDS for word in text.split()].index(True) for text in texts]
    assert np.bincount(places, minlength=4).min() > 850
    assert method.probes() == WORDS
    assert method.facts((), ()) == {"trigger": list(WORDS)}
    assert method.poison_text("one of mn", 0, 0) is None
