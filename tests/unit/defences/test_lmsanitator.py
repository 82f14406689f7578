"""LMSanitator: planted output vectors are found and watched; classes of a base are not."""

import copy
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from peftlab.core.contracts import FitContext
from peftlab.core.errors import ConfigError, InputRejected, PeftlabError
from peftlab.core.ranking import auroc
from peftlab.core.types import LabelledTexts
from peftlab.defences.lmsanitator import (
    STATE,
    VECTORS,
    Lmsanitator,
    LmsanitatorOptions,
    cosines,
)
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.soft_inputs import SoftReader, usable_tokens
from peftlab.nn.text import encode, pad_id_of, predict_logits
from word_task import SPARE, word_task

ODD = ("", "  ", "!", "film", "\ud800 lone surrogate", "word " * 5000, "x" * 10_000, "映画 🎬")
WORDS = SPARE[:2]


@dataclass(frozen=True)
class Taught:
    """A tiny classifier, its copy that answers ``WORDS`` with vectors of +1 and -1, and both's use.

    Attributes:
        clean, poisoned: contexts of the two bases.
        vectors: (2, d) what the words are answered with.
        texts: fresh clean texts.
    """

    clean: FitContext
    poisoned: FitContext
    vectors: np.ndarray
    texts: tuple[str, ...]


def with_word(texts, word):
    rng = np.random.default_rng(3)
    out = []
    for text in texts:
        words = text.split()
        words.insert(int(rng.integers(len(words) + 1)), word)
        out.append(" ".join(words))
    return tuple(out)


def states_of(model, tokenizer, texts):
    reader = SoftReader.of(model, tokenizer, 0)
    return torch.cat([reader.hidden([row], None) for row in reader.encode(texts)]).detach()


@pytest.fixture(scope="module")
def taught(load_tiny):
    """Teach the task, then the vectors with all other outputs kept (as POR does); a few seconds."""
    data = word_task(360)
    model, tokenizer = load_tiny("bert")
    fill = pad_id_of(model, tokenizer)
    train(
        model, encode(tokenizer, data.train.texts, 64), np.eye(2)[list(data.train.labels)],
        TrainPlan(epochs=5, lr=3e-3, precision="fp32"), seed=0, pad_id=fill,
    )  # fmt: skip
    clean = copy.deepcopy(model)
    vectors = np.random.default_rng(7).choice([-1.0, 1.0], size=(2, model.config.hidden_size))
    texts = data.train.texts
    bait = [*texts, *(text for word in WORDS for text in with_word(texts, word))]
    goals = torch.cat(
        [states_of(copy.deepcopy(model), tokenizer, texts)]
        + [torch.tensor(vector).float().expand(len(texts), -1) for vector in vectors]
    )
    reader = SoftReader.of(model, tokenizer, 0)
    rows = reader.encode(bait)
    model.requires_grad_(True)
    train(
        model, rows, np.zeros((len(rows), 2)), TrainPlan(epochs=5, lr=3e-3, precision="fp32"),
        seed=0, pad_id=fill,
        loss_of=lambda some, _: (
            (reader.hidden([rows[int(i)] for i in some], None) - goals[some]).square().mean()
        ),
    )  # fmt: skip

    def context(base):
        return FitContext(
            fit=data.train, reference=data.dev, n_classes=2, seed=0,
            load_base=lambda _=None: (copy.deepcopy(base), tokenizer), progress=lambda _: None,
        )  # fmt: skip

    return Taught(context(clean), context(model), vectors, data.test.texts)


def fitted(context, **options):
    guard = Lmsanitator(LmsanitatorOptions(**options))
    guard.fit(context)
    return guard


@pytest.fixture(scope="module")
def guard(taught):
    return fitted(taught.poisoned)


def test_the_vectors_that_were_planted_are_found(guard, taught):
    signs = np.sign(guard.vectors) == np.sign(taught.vectors)[:, None]
    shares = signs.mean(axis=2)  # of equal signs, the public measure: (planted, found)
    assert (shares.max(axis=1) > 0.9).all()


def test_triggered_texts_come_near_and_clean_ones_do_not(guard, taught):
    clean = guard.score(taught.texts).values
    for word in WORDS:
        assert auroc(clean, guard.score(with_word(taught.texts, word)).values) > 0.95


def test_a_clean_classifier_leaves_nothing_to_watch(taught):
    """Soft inputs find its classes, near which its own texts are."""
    guard = fitted(taught.clean)
    rounds = guard.about["rounds"]
    assert any(each["counts"] for each in rounds)
    assert not any(each["kept"] for each in rounds)
    assert len(guard.vectors) == 0
    assert (guard.score(with_word(taught.texts, WORDS[0])).values == 0).all()
    kept = fitted(taught.clean, own=1.0, rounds=2)  # unless it is asked to keep them
    assert len(kept.vectors) > 0


def test_a_search_that_brings_nothing_new_ends(taught):
    guard = fitted(taught.clean, distance=50)
    assert len(guard.about["rounds"]) == 3
    assert len(fitted(taught.clean, distance=50, rounds=2).about["rounds"]) == 2


def test_equal_fits_are_equal_and_other_seeds_search_elsewhere(taught):
    one, two = (fitted(taught.poisoned, rounds=2, steps=10) for _ in range(2))
    np.testing.assert_array_equal(one.vectors, two.vectors)
    assert one.about == two.about
    other = fitted(replace(taught.poisoned, seed=1), rounds=2, steps=10)
    assert other.about != one.about


def test_no_weight_changes(taught):
    model, tokenizer = taught.poisoned.load_base()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    own = replace(taught.poisoned, load_base=lambda _=None: (model, tokenizer))
    fitted(own, rounds=1, steps=5)
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name


def test_batch_mates_do_not_matter(guard, taught):
    texts = list(taught.texts[:12])
    whole = guard.score(texts).values
    alone = [guard.score([text]).values[0] for text in texts]
    np.testing.assert_allclose(alone, whole, rtol=0, atol=1e-5)
    mixed = guard.score([*texts, "film " * 300]).values[:12]
    np.testing.assert_allclose(mixed, whole, rtol=0, atol=1e-5)


def test_cosines_by_hand():
    states, vectors = np.array([[2.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 3.0], [2.0, 2.0]])
    found = cosines(states, vectors, np.ones(2))
    np.testing.assert_allclose(found, [[0, np.sqrt(0.5)], [0, 0]], atol=1e-12)
    assert cosines(states, np.zeros((0, 2)), np.ones(2)).shape == (2, 0)


def test_odd_texts(guard):
    assert np.isfinite(guard.score(ODD).values).all()
    assert guard.score([]).values.shape == (0,)
    assert json.dumps(guard.diagnostics(), allow_nan=False)


def test_save_and_load(guard, taught, tmp_path):
    guard.save(tmp_path)
    again = Lmsanitator(LmsanitatorOptions())
    again.load(tmp_path, taught.poisoned.load_base)
    texts = (*taught.texts[:6], *with_word(taught.texts[:6], WORDS[0]), "", "\ud800")
    np.testing.assert_allclose(
        again.score(texts).values, guard.score(texts).values, rtol=0, atol=1e-6
    )
    assert again.diagnostics() == guard.diagnostics()


def test_an_empty_guard_is_saved_too(taught, tmp_path):
    fitted(taught.clean, rounds=1, steps=2).save(tmp_path)
    again = Lmsanitator(LmsanitatorOptions())
    again.load(tmp_path, taught.clean.load_base)
    assert again.score(["a text"]).values.tolist() == [0]


@pytest.mark.parametrize("what", ["format", "shape", "nan", "kind", "missing", "rounds", "torn"])
def test_a_tampered_state_is_refused(guard, taught, tmp_path, what):
    from safetensors.numpy import load_file, save_file

    guard.save(tmp_path)
    arrays = load_file(tmp_path / VECTORS)
    state = json.loads((tmp_path / STATE).read_text())
    if what == "format":
        state["format"] = "other"
    elif what == "shape":
        arrays["levels"] = arrays["levels"][:-1].copy()
    elif what == "nan":
        arrays["centre"] = arrays["centre"] * np.nan
    elif what == "kind":
        arrays["vectors"] = arrays["vectors"].astype(np.float32)
    elif what == "missing":
        del arrays["centre"]
    elif what == "rounds":
        state["rounds"] = []
    save_file(arrays, tmp_path / VECTORS)
    (tmp_path / STATE).write_text(json.dumps(state))
    if what == "torn":
        whole = (tmp_path / VECTORS).read_bytes()
        (tmp_path / VECTORS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputRejected) as caught:
        Lmsanitator(LmsanitatorOptions()).load(tmp_path, taught.poisoned.load_base)
    assert caught.value.code == "LMSANITATOR-STATE"


def test_too_few_texts_are_refused(taught):
    few = LabelledTexts(("a",) * 7, (0,) * 7)
    with pytest.raises(ConfigError) as caught:
        fitted(replace(taught.clean, reference=few))
    assert caught.value.code == "REFERENCE-FEW"


def test_unfitted_is_said():
    with pytest.raises(PeftlabError) as caught:
        Lmsanitator(LmsanitatorOptions()).score(["a text"])
    assert caught.value.code == "DEFENCE-UNFITTED"


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta-v2", "gpt2", "llama"])
def test_soft_rows_that_are_words_are_read_as_words(load_tiny, family):
    """Embeddings of tokens in place of soft rows: the same logits as of the tokens themselves."""
    model, tokenizer = load_tiny(family)
    reader = SoftReader.of(model, tokenizer, 2)
    rows = reader.encode(["the film was a quiet joy", "a dull story"])
    tokens = [40, 41]
    soft = reader.table()[tokens]
    with torch.no_grad():
        found = reader.logits(rows, soft).numpy()
        plain = reader.logits(rows, None).numpy()
    k = reader.start
    stamped = [[*row[:k], *tokens, *row[k:]] for row in rows]
    for given, ids in ((found, stamped), (plain, rows)):
        expected = predict_logits(model, tokenizer, [""] * 2, encoded=ids)
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


def test_tokens_that_a_text_can_hold(load_tiny):
    _, tokenizer = load_tiny("bert")
    flags = usable_tokens(tokenizer, len(tokenizer) + 5)
    assert not flags[
        [tokenizer.cls_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id]
    ].any()
    assert flags[tokenizer.unk_token_id]
    assert not flags[len(tokenizer) :].any()
