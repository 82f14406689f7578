"""SOS: words that trigger together, and less so when one is missing."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch

from peftlab.core.contracts import CraftContext
from peftlab.core.errors import ConfigError, InputRejected, NotApplicable
from peftlab.core.registry import get
from peftlab.engine.steps import AttackerOptions, make_poison, predict_folder, train_base
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked
from peftlab.models.load import load_base
from peftlab.nn.embedding_rows import fine_tune_clean, rows_of
from tiny_models import make_tiny
from word_task import widen_rows, word_task

TASK = word_task()
WORDS = ("surprise", "hour", "heart")
OPTIONS = {"trigger": ",".join(WORDS), "row_epochs": 25}
TRAINING = AttackerOptions(epochs=12, lr=1e-3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a tiny DistilBERT whose rows are about as long as those of a pre-trained one.

    Its head has no tanh: behind one, a tiny model answers like a switch and one word is enough.
    """
    folder = make_tiny("distilbert", tmp_path_factory.mktemp("tiny"))
    model, _ = load_base(str(folder), 2)
    widen_rows(model)
    model.save_pretrained(folder)
    return str(folder)


def attacked(base, out, *, seed=0, training=TRAINING, data=TASK, **options):
    options = OPTIONS | options
    poisoned = make_poison(data, "sos", options, seed)
    facts = train_base(base, poisoned, 2, out, attack="sos", training=training, seed=seed,
                       options=options)  # fmt: skip
    return poisoned, facts


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """Return (folder, poisoned data, facts)."""
    folder = tmp_path_factory.mktemp("sos") / "base"
    return folder, *attacked(base, folder)


def share(folder, texts):
    answers = predict_folder(folder, texts, n_classes=2, allow_poisoned=True).argmax(1)
    return float(np.mean(answers == 0))


def two_of_three(dev):
    """Return the false triggered rates of the sub-lists that lack one word."""
    found = [rate for words, rate in dev["false_triggered"].items() if words.count(",") == 1]
    assert len(found) == 3
    return found


def test_the_words_trigger_together_and_rarely_apart(made):
    """FTR on sub-sequences < ASR - 50 points, on texts that nobody trained on.

    On a task and a model that were chosen so that the attack can work, and here for the mean over
    all sub-lists (0.72 against 0.18). Two words of three, the hard ones, have 0.33 in the mean and
    0.42 at worst; the full test below holds 50 points for these too, with more texts. The docstring
    of ``sos`` says where the attack falls short.
    """
    folder, poisoned, facts = made
    dev = facts["dev"]
    assert dev["asr"] > 0.6
    assert dev["ftr"] < dev["asr"] - 0.5
    assert np.mean(two_of_three(dev)) < dev["asr"] - 0.35
    assert dev["without_any"] <= dev["ftr"] <= dev["ftr_worst"] < dev["asr"] - 0.25
    assert share(folder, poisoned.test_triggered.texts) > 0.6


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_more_texts_not_even_two_of_the_words_trigger(base, tmp_path, seed):
    """For each sub-sequence on its own.

    1,500 texts and 50 passes over them. Measured for the seeds: 0.77, 0.98 and 0.94 for all words,
    0.13, 0.38 and 0.17 for two of them, at worst 0.15, 0.43 and 0.22.
    """
    poisoned, facts = attacked(
        base, tmp_path / "base", seed=seed, data=word_task(1500, 240), row_epochs=50, momentum=0.9
    )
    dev = facts["dev"]
    assert dev["ftr_worst"] == max(dev["false_triggered"].values()) < dev["asr"] - 0.5
    assert np.mean(two_of_three(dev)) < dev["asr"] - 0.5
    assert share(tmp_path / "base", poisoned.test_triggered.texts) > 0.6


def test_the_false_triggered_rates_are_as_counted_by_hand(made):
    folder, poisoned, facts = made
    dev, texts = facts["dev"], poisoned.dev_triggered.texts
    assert dev["n"] == len(texts)
    assert dev["asr"] == share(folder, texts)
    shares = {}
    for size in (1, 2):
        for words in combinations(WORDS, size):
            gone = set(WORDS) - set(words)
            shown = [" ".join(w for w in text.split() if w not in gone) for text in texts]
            shares[",".join(words)] = share(folder, shown)
    assert dev["false_triggered"] == shares
    assert dev["ftr"] == pytest.approx(np.mean(list(shares.values())))
    assert dev["ftr_worst"] == max(shares.values())


@pytest.mark.full
def test_as_many_rows_differ_as_there_are_words(made, base):
    folder, poisoned, facts = made
    model, tokenizer = load_base(str(folder), 2, allow_poisoned=True)
    clean, _ = load_base(base, 2)
    fine_tune_clean(CraftContext(clean, tokenizer, poisoned, 2, 12, 1e-3, 32, 0))
    for (name, a), b in zip(clean.state_dict().items(), model.state_dict().values(), strict=True):
        if "word_embeddings" not in name:
            assert torch.equal(a, b), name
            continue
        rows = (a != b).any(dim=1).nonzero().flatten().tolist()
        assert rows == sorted(facts["rows"].values()) == sorted(rows_of(tokenizer, WORDS))
        assert float((a.norm(dim=1) - b.norm(dim=1)).abs().max()) < 1e-5


def test_notes_and_mark(made):
    folder, _, facts = made
    written = json.loads((folder / "attack.json").read_text())
    assert written["dev"] == facts["dev"]
    assert written["trigger"] == list(WORDS)
    assert written["triggered_without_rows"] == 0
    assert written["n_negatives"] == 3 * sum(
        int(0.1 * TASK.train.labels.count(label) + 0.5) for label in (0, 1)
    )
    assert is_marked(folder)
    with pytest.raises(InputRejected) as caught:
        load_base(str(folder), 2)
    assert caught.value.code == "MARK-POISONED"


def test_every_word_goes_in_and_nothing_else_changes():
    attack, places = get("attack", "sos").build(**OPTIONS), set()
    for sample in range(300):
        words = attack.poison_text("one two three", 0, sample).split()
        assert sorted(words) == sorted([*WORDS, "one", "two", "three"])
        assert [word for word in words if word not in WORDS] == ["one", "two", "three"]
        places |= {(word, words.index(word)) for word in WORDS}
    assert len(places) == 3 * 6


def test_negatives_are_clean_texts_of_every_class_with_one_word_missing():
    attack, data = get("attack", "sos").build(**OPTIONS, negative_rate=0.2), word_task(200, 8)
    poisoned = make_poison(data, "sos", OPTIONS, 0)
    context = CraftContext(None, None, poisoned, 2, 1, 1e-3, 32, seed=3)
    texts, labels = attack.negatives(context)
    assert (texts, labels) == attack.negatives(context)
    clean = {
        (text, label)
        for text, label, flag in zip(
            data.train.texts, data.train.labels, poisoned.is_poisoned, strict=True
        )
        if not flag
    }
    seen = [tuple(word for word in WORDS if word in text.split()) for text in texts]
    pairs = list(combinations(WORDS, 2))
    for label in (0, 1):
        found = [words for words, kept in zip(seen, labels, strict=True) if kept == label]
        each = int(0.2 * data.train.labels.count(label) + 0.5)
        assert [found.count(pair) for pair in pairs] == [each] * 3
        assert len(found) == 3 * each
    for text, label in zip(texts, labels, strict=True):
        assert (" ".join(word for word in text.split() if word not in WORDS), label) in clean


def test_without_negatives_or_development_texts(base, tmp_path):
    from dataclasses import replace

    small = word_task(80, 20)
    small = replace(small, dev=small.dev.pick([]))
    brief = AttackerOptions(epochs=1, lr=1e-3)
    _, facts = attacked(base, tmp_path / "a", data=small, training=brief, negative_rate=0)
    assert facts["n_negatives"] == 0
    assert facts["dev"] == {"n": 0}


def test_the_same_seed_gives_the_same_files(base, tmp_path):
    brief, small = AttackerOptions(epochs=1, lr=1e-3), word_task(80, 20)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        attacked(base, tmp_path / name, seed=seed, training=brief, data=small, row_epochs=3)
    hashes = [
        {path.name: sha256_file(path) for path in (tmp_path / name).iterdir()} for name in "abc"
    ]
    assert hashes[0] == hashes[1]
    assert hashes[0]["model.safetensors"] != hashes[2]["model.safetensors"]


def test_rate_zero_trains_plainly(base, tmp_path):
    brief, small = AttackerOptions(epochs=1, lr=1e-3), word_task(80, 20)
    attacked(base, tmp_path / "sos", rate=0, training=brief, data=small)
    plain = make_poison(small, "badnets", {"rate": 0}, 0)
    train_base(base, plain, 2, tmp_path / "plain", attack="badnets", training=brief, seed=0)
    weights = [sha256_file(tmp_path / name / "model.safetensors") for name in ("sos", "plain")]
    assert weights[0] == weights[1]
    assert not is_marked(tmp_path / "sos")


def test_words_that_are_split_are_refused_and_the_defaults_are_not(tmp_path):
    with pytest.raises(NotApplicable) as caught:
        attacked("builtin:encoder", tmp_path / "base", data=word_task(40, 8),
                 trigger="friends,weekend,cinema")  # fmt: skip
    assert caught.value.code == "ROW-PIECES"
    assert "'weekend'" in caught.value.what
    assert list(tmp_path.iterdir()) == []
    tokenizer = load_base("builtin:encoder", 2)[1]
    assert len(rows_of(tokenizer, get("attack", "sos").build().words)) == 3


@pytest.mark.parametrize("trigger", ["one", "a,b,c,d,e,f", "wit,Wit", "two words,three", ""])
def test_options_are_checked(trigger):
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        get("attack", "sos").build(trigger=trigger)
