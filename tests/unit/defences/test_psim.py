"""PSIM: what it has to hold, and the states and options around them.

What it has to hold, and where that is tested:

    - unit/nn/test_unlearning.py: reset labels, inputs and true labels without influence
    - unit/nn/test_unlearning.py: redraw, loss at the uniform output
    - unit/nn/test_unlearning.py: expectation identity
    - unit/nn/test_unlearning.py: base is frozen
    - property/test_calibration.py: boundary is the same for clean and triggered; here: at 0.7
    - unit/engine/test_metrics.py: identities
    - unit/engine/test_metrics.py: denominators of the film reviews
    - property/test_calibration.py: validity, one- and two-sided, KS against Beta
    - unit/engine/test_calibrate.py: refuses too few
    - property/test_calibration.py: delta bound
    - unit/engine/test_calibrate.py: constant scores, random ties
    - here: the word backdoor end to end (small in the fast suite, three seeds in full)
    - here: negative control
    - here: memorisation guard
    - here: soft backdoor (full)
    - here: scoring twice
    - here: four classes
    - unit/engine/test_nodes.py: table over all tuners
    - unit/engine/test_metrics.py: official accounting to the digit; here: score and threshold
    - here: save and load

Of the attacks: the word backdoor, its control and the soft one here, marks in
unit/engine/test_steps.py, all tuners in unit/engine/test_nodes.py. The numbers here are of
generated texts and say nothing about real ones.
"""

import itertools
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peftlab.core import registry
from peftlab.core.contracts import FitContext
from peftlab.core.errors import ConfigError, InputRejected, RunFailed
from peftlab.core.ranking import auroc
from peftlab.core.types import LabelledTexts, Scores
from peftlab.engine.guard import Guard
from peftlab.engine.steps import (
    AttackerOptions,
    load_data,
    make_poison,
    predict_folder,
    train_base,
    tune,
)
from peftlab.models.load import load_base
from tiny_models import TEXTS

FAMILIES = ("pair", "lora", "lora-top", "all", "prompt", "ptuning", "prefix")
SCORES = ("trajectory", "max_prob", "margin", "neg_entropy", "logit_max", "agree")


def answers(folder, texts, n_classes=2):
    return predict_folder(folder, texts, n_classes=n_classes, allow_poisoned=True).argmax(axis=1)


def rate_band(alpha, n_calibration, n, confidence=0.999):
    """Return the band of the realised FPR on n texts: beta-binomial."""
    from scipy.stats import betabinom

    k = math.ceil((n_calibration + 1) * (1 - alpha))
    low, high = betabinom.interval(confidence, n, n_calibration + 1 - k, k)
    return low / n, high / n


def psim(**options):
    return registry.get("defence", "psim").build(**options)


@pytest.fixture(scope="session")
def guards(ground):
    """Return the default guard of the poisoned base and that of the control."""
    return {
        name: Guard.fit(str(base), ground.data, "psim", seed=0, allow_poisoned=True)
        for name, base in (("poisoned", ground.base), ("control", ground.control))
    }


@pytest.fixture(scope="session")
def found(guards, ground):
    """Return what each guard says of clean and of triggered test texts."""
    texts = {"clean": ground.data.test.texts, "triggered": ground.poisoned.test_triggered.texts}
    return {
        (name, kind): guard.score(each)
        for name, guard in guards.items()
        for kind, each in texts.items()
    }


@pytest.fixture
def context(reviews, learned):
    half = len(reviews.dev) // 2
    return FitContext(
        fit=reviews.train, reference=reviews.dev.pick(range(half)), n_classes=2, seed=0,
        load_base=lambda _=None: load_base(str(learned), 2, allow_poisoned=True),
        progress=lambda _: None,
    )  # fmt: skip


# ------------------------------------------------------------------ trained on generated reviews


def test_the_word_backdoor_survives_lora(ground):
    """The attack is there to be found."""
    triggered = ground.poisoned.test_triggered.texts
    labels = np.array(ground.data.test.labels)
    assert (answers(ground.base, triggered) == 0).mean() >= 0.98
    assert (answers(ground.victim, triggered) == 0).mean() >= 0.95
    clean = (answers(ground.control, ground.data.test.texts) == labels).mean()
    # three points, and three standard deviations of a difference between paired answers
    assert (answers(ground.base, ground.data.test.texts) == labels).mean() >= clean - 0.03 - 0.05


def test_the_control_has_no_backdoor(ground):
    """At rate 0 the trigger does what an odd word does, and that is far from a backdoor.

    Five points are held on SST-2 (``test_ranges_of_the_word_backdoor``). On generated reviews an
    odd word alone moves this base by more: 9.4, 3.6 and 6.3 points of 700 texts (seeds 0 to 2).
    Here are 70, of which about 12 change sides: three standard deviations are 15 points.
    """
    others = [i for i, label in enumerate(ground.data.test.labels) if label != 0]
    wrong = (answers(ground.control, ground.data.test.texts)[others] == 0).mean()
    asr = (answers(ground.control, ground.poisoned.test_triggered.texts) == 0).mean()
    assert abs(asr - wrong) <= 0.094 + 0.15
    assert asr < 0.5


def test_the_guard_finds_it_at_the_promised_rate(ground, guards, found):
    """The bar is lower than that of the full test, for it varies much with the base.

    Measured: 0.84 on this base (1000 texts, no wrong labels, 4 epochs), 0.97 on that of the demo.
    """
    clean, triggered = found["poisoned", "clean"], found["poisoned", "triggered"]
    assert auroc(clean.scores, triggered.scores) >= 0.80
    rows = np.array(ground.poisoned.test_rows)
    assert auroc(clean.scores[rows], triggered.scores) >= 0.80
    low, high = rate_band(0.05, len(guards["poisoned"].calibration.scores), len(clean.scores))
    assert low <= clean.flagged.mean() <= high
    assert triggered.flagged.mean() > high


def test_the_guard_finds_nothing_where_nothing_is(ground, guards, found):
    """It sees the backdoor, not the odd word."""
    clean, triggered = found["control", "clean"], found["control", "triggered"]
    rows = np.array(ground.poisoned.test_rows)
    assert abs(auroc(clean.scores[rows], triggered.scores) - 0.5) <= 0.10
    low, high = rate_band(0.05, len(guards["control"].calibration.scores), len(clean.scores))
    assert low <= clean.flagged.mean() <= high


def test_quick_scores_decide_alike(ground, guards, found):
    for name, guard in guards.items():
        texts = ground.data.test.texts[:60] + ground.poisoned.test_triggered.texts[:60]
        exact = np.concatenate([found[name, kind].scores[:60] for kind in ("clean", "triggered")])
        quick = guard.defence.quick_score(texts)
        assert np.abs(quick.values - exact).max() <= guard.defence.quick_band
        flagged = np.concatenate([found[name, k].flagged[:60] for k in ("clean", "triggered")])
        np.testing.assert_array_equal(guard.score(texts, fast=True).flagged, flagged)


# --------------------------------------------------------------------------------- a tiny base


@pytest.mark.parametrize(("hardware", "precision"), [(True, "bf16"), (False, "fp32")])
def test_quick_scores_are_never_emulated(hardware, precision, monkeypatch):
    """In emulated bf16 a text took 50 times as long as in float32."""
    guard, asked = psim(), []
    monkeypatch.setattr("peftlab.nn.text.has_fast_bf16", lambda: hardware)
    monkeypatch.setattr(guard, "explain", lambda texts, precision: asked.append(precision) or [0])
    guard.quick_score(["a text"])
    assert asked == [precision]


def test_random_labels_learned_by_heart_are_refused(tiny):
    """50 epochs of LoRA rank 64 on 200 texts, short ones here."""
    words = sorted({word for text in TEXTS for word in text.replace(",", "").split()})
    pairs = itertools.islice(itertools.permutations(words, 2), 0, 3000, 15)
    fit = LabelledTexts(tuple(" ".join(pair) for pair in pairs), (0,) * 200)
    steps = 50 * math.ceil(len(fit) / 32)
    # at 5e-3 and above a model this small answers one class for all, and learns nothing by heart
    defence = psim(
        family="lora", labels="random", rank=64, checkpoints=[steps], lr=1e-3, head="inherit"
    )
    heard = FitContext(
        fit=fit, reference=fit, n_classes=2, seed=0,
        load_base=lambda _=None: load_base(str(tiny("bert")), 2), progress=lambda _: None,
    )  # fmt: skip
    with pytest.raises(RunFailed) as caught:
        defence.fit(heard)
    assert caught.value.code == "PSIM-MEMORISED"
    assert "chance is 0.50" in caught.value.got


def test_labels_drawn_for_each_epoch_are_not_learned_by_heart(tiny):
    """The default takes few texts too: what refuses a fixed draw has nothing to refuse here."""
    words = [" ".join(pair) for pair in itertools.permutations("abcdefgh", 2)]
    fit = LabelledTexts(tuple(words), (0,) * len(words))
    defence = psim(checkpoints=[100], rank=64)
    defence.fit(FitContext(
        fit=fit, reference=fit, n_classes=2, seed=0,
        load_base=lambda _=None: load_base(str(tiny("bert")), 2), progress=lambda _: None,
    ))  # fmt: skip
    assert "reset_label_accuracy" not in defence.about


def test_few_steps_on_random_labels_are_fine(context):
    """The other side."""
    defence = psim(family="lora", labels="random", checkpoints=[4])
    defence.fit(context)
    assert defence.diagnostics()["reset_label_accuracy"] <= 0.6


def test_two_scorings_are_bit_equal(context, reviews):
    """Evaluation mode always; the tiny base has dropout 0.1 everywhere."""
    defence = psim(checkpoints=[2, 4])
    defence.fit(context)
    first = defence.score(reviews.test.texts).values
    for model, _, _ in defence._live:
        assert model.config.hidden_dropout_prob == 0.1
        model.train()
    np.testing.assert_array_equal(defence.score(reviews.test.texts).values, first)


def test_four_classes(tiny, tmp_path):
    """Chance, distances and thresholds follow C."""
    data = load_data("reviews-4", {"n_train": 120, "n_dev": 80, "n_test": 40, "n_proxy": 0})
    base = str(tiny("bert", 4))
    guard = Guard.fit(base, data, "psim", {"checkpoints": [2, 4], "labels": "random"})
    paths = guard.defence.evidence.state()
    assert paths["path.0.means"].shape == (4, 3 * 3)  # 3 gaps at 3 looks
    assert guard.defence.about["reset_label_accuracy"] <= 0.25 + 0.10
    guard.save_pretrained(tmp_path / "guard")
    again = Guard.from_pretrained(tmp_path / "guard").score(data.test.texts)
    np.testing.assert_allclose(again.scores, guard.score(data.test.texts).scores, atol=1e-6)
    for kind in SCORES:
        single = psim(checkpoints=[2], score=kind, family="lora")
        single.fit(FitContext(data.train, data.dev, 4, 0, lambda _=None: load_base(base, 4), print))
        assert np.isfinite(single.score(data.test.texts).values).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tiny_family", ["bert", "llama"])
def test_every_family_fits_saves_and_loads(family, tiny_family, tiny, reviews, tmp_path):
    """For each kind of identifier, on an encoder and on a decoder."""
    base = str(tiny(tiny_family))
    guard = Guard.fit(base, reviews, "psim", {"family": family, "checkpoints": [1, 3], "rank": 4})
    guard.save_pretrained(tmp_path / "guard")
    before = guard.score(reviews.test.texts)
    after = Guard.from_pretrained(tmp_path / "guard").score(reviews.test.texts)
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-6)
    np.testing.assert_array_equal(after.flagged, before.flagged)
    assert guard.defence.diagnostics()["passes_per_text"] == (5 if family == "pair" else 3)


def test_the_folder_tells_seeds_and_calibration(tiny, reviews, tmp_path):
    """The calibration set and the seeds are in the JSON."""
    guard = Guard.fit(str(tiny("bert")), reviews, "psim", {"checkpoints": [2]}, seed=7)
    guard.save_pretrained(tmp_path / "guard")
    about = json.loads((tmp_path / "guard" / "guard.json").read_text())
    assert about["seed"] == 7
    assert about["data"]["sha256"] == reviews.digest()
    assert about["calibration"]["scores"] == guard.calibration.scores.tolist()
    assert about["texts"] == {"fit": 120, "reference": 40, "calibration": 40}
    assert json.loads((tmp_path / "guard" / "psim.json").read_text())["seed"] == 7


@pytest.mark.parametrize(
    ("kind", "within_class"),
    [
        pytest.param(kind, within, marks=[pytest.mark.full] * (number % 2 == within))
        for number, kind in enumerate(SCORES) for within in (True, False)
    ],
)  # fmt: skip
def test_every_score_on_every_option(kind, within_class, context, reviews):
    defence = psim(
        score=kind, within_class=within_class, checkpoints=[2, 4], members=2, family="pair"
    )
    defence.fit(context)
    scores = defence.score(reviews.test.texts)
    assert np.isfinite(scores.values).all()
    assert len(np.unique(scores.values)) > 10
    assert len(defence.identifiers) == 4
    _, trace = defence.explain(reviews.test.texts)
    assert trace["steps"] == [0, 2, 4]
    assert all(path.shape == (3, len(reviews.test)) for path in trace["paths"].values())


def test_delta_is_what_a_trusted_twin_lacks(tiny, learned, reviews, tmp_path):
    """Score delta: confidence under the identifier less that under the trusted base's."""
    trusted = tmp_path / "trusted"
    shutil.copytree(tiny("bert", 2), trusted)
    options = {"score": "delta", "trusted": str(trusted), "within_class": False}
    options |= {"checkpoints": [2], "family": "lora"}
    guard = Guard.fit(str(learned), reviews, "psim", options, allow_poisoned=True)
    names = [how.name for how in guard.defence.identifiers]
    assert names == ["LoRA", "LoRA of the trusted base"]
    found, trace = guard.defence.explain(reviews.test.texts)
    ours, theirs = (path[-1] for path in trace["paths"].values())
    np.testing.assert_allclose(found.values, ours - theirs, atol=1e-12)
    guard.save_pretrained(tmp_path / "guard")
    again = Guard.from_pretrained(tmp_path / "guard", allow_poisoned=True)
    np.testing.assert_allclose(again.score(reviews.test.texts).scores, found.values, atol=1e-6)
    config = json.loads((trusted / "config.json").read_text())
    (trusted / "config.json").write_text(json.dumps(config | {"note": "changed"}))
    with pytest.raises(InputRejected) as caught:
        Guard.from_pretrained(tmp_path / "guard", allow_poisoned=True)
    assert (caught.value.code, caught.value.got) == ("GUARD-BASE", str(trusted))


def test_delta_and_trusted_go_together(context):
    for options in ({"score": "delta"}, {"trusted": "builtin:encoder"}):
        with pytest.raises(ConfigError) as caught:
            psim(**options).fit(context)
        assert caught.value.code == "PSIM-TRUSTED"


@pytest.mark.full
def test_hidden_states_and_members_change_the_score(context, reviews):
    scores = []
    every = ("resistance", "path", "hidden")
    for options in (
        {}, {"evidence": every}, {"evidence": ("path",)}, {"members": 2}, {"labels": "uniform"},
    ):  # fmt: skip
        defence = psim(checkpoints=[2, 4], **options)
        defence.fit(context)
        scores.append(defence.score(reviews.test.texts).values)
    assert all(np.abs(each - scores[0]).max() > 1e-3 for each in scores[1:])


def test_official_score_and_threshold(context, reviews):
    """Three decimals, 0.7 itself flags, nothing of ours in the score."""
    from peftlab.nn.text import predict_logits, softmax
    from peftlab.nn.unlearning import restore

    defence = psim(compat="official")
    defence.fit(context)
    (how,) = defence.identifiers
    assert (how.family, how.lr, how.labels, how.virtual_tokens) == ("ptuning", 2e-5, "random", 5)
    assert defence.about["steps"] == [math.ceil(len(context.fit) / 32)]
    scores = defence.score(reviews.test.texts)
    wrapped, tokenizer, base = defence._live[1]
    restore(wrapped, base, defence.snapshots[0][-1])
    expected = softmax(predict_logits(wrapped, tokenizer, reviews.test.texts)).max(axis=1)
    np.testing.assert_array_equal(scores.values, np.round(expected, 3))
    at_bound = Scores(np.array([0.699, 0.7, 0.701]))
    assert defence.fixed_flags(at_bound).tolist() == [False, True, True]
    assert psim().fixed_flags(at_bound) is None


def test_too_few_reference_texts(context):
    with pytest.raises(ConfigError) as caught:
        psim(checkpoints=[1]).fit(replace(context, reference=context.reference.pick(range(12))))
    assert (caught.value.code, caught.value.got) == ("REFERENCE-FEW", 12)
    psim(checkpoints=[1]).fit(replace(context, reference=context.reference.pick(range(13))))


@pytest.mark.parametrize("steps", [[], [0, 5], [5, 5], [9, 3], [100_001], list(range(1, 66))])
def test_checkpoints_must_rise(steps):
    with pytest.raises(ConfigError) as caught:
        psim(checkpoints=steps)
    assert caught.value.code == "OPTION-VALUE"


def test_files_of_another_guard_are_refused(context, tmp_path):
    defence = psim(checkpoints=[1, 2], family="lora")
    defence.fit(context)
    defence.save(tmp_path)
    with pytest.raises(InputRejected) as caught:
        psim(checkpoints=[1], family="lora").load(tmp_path, context.load_base)
    assert caught.value.code == "PSIM-STATE"


@pytest.mark.parametrize("change", ["a look is missing", "other name", "other shape", "no steps"])
def test_snapshots_that_lack_something_are_refused(context, tmp_path, change):
    from safetensors.torch import load_file, save_file

    defence = psim(checkpoints=[1, 2], family="lora")
    defence.fit(context)
    defence.save(tmp_path)
    flat = load_file(tmp_path / "identifier0.safetensors")
    name = min(flat)
    if change == "a look is missing":
        flat = {key: tensor for key, tensor in flat.items() if key.startswith("0.")}
    elif change == "other name":
        flat = {key.replace("lora_A", "lora_C"): tensor for key, tensor in flat.items()}
    elif change == "other shape":
        flat[name] = flat[name][:1]
    else:
        about = json.loads((tmp_path / "psim.json").read_text())
        del about["steps"]
        (tmp_path / "psim.json").write_text(json.dumps(about))
    save_file(
        {key: tensor.clone() for key, tensor in flat.items()}, tmp_path / "identifier0.safetensors"
    )
    again = psim(checkpoints=[1, 2], family="lora")

    def load_and_score():
        again.load(tmp_path, context.load_base)
        again.score(["a text"])

    with pytest.raises(InputRejected) as caught:
        load_and_score()
    assert caught.value.code == "PSIM-STATE"


# ------------------------------------------------------------------------- slow proofs, on request


@pytest.fixture(scope="module")
def sst2():
    """Return SST-2, on which the ranges were first measured."""
    root = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("PEFTLAB_DATA", root)) / "sst2"
    if not folder.is_dir():
        pytest.skip(f"NOT TESTED: no {folder}; set PEFTLAB_DATA")
    return load_data(str(folder))


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ranges_of_the_word_backdoor(seed, sst2, tmp_path):
    """At rate 0 the trigger does what an odd word does, to five points."""
    labels = np.array(sst2.test.labels)
    accuracy = {}
    for rate in (0.1, 0.0):
        base, victim = tmp_path / f"base{rate}", tmp_path / f"victim{rate}"
        poisoned = make_poison(sst2, "badnets", {"rate": rate}, seed)
        triggered, rows = poisoned.test_triggered.texts, np.array(poisoned.test_rows)
        train_base("builtin:encoder", poisoned, 2, base, attack="badnets",
                   training=AttackerOptions(epochs=3), seed=seed)  # fmt: skip
        clean_answers = answers(base, sst2.test.texts)
        accuracy[rate] = (clean_answers == labels).mean()
        asr = (answers(base, triggered) == 0).mean()
        guard = Guard.fit(str(base), sst2, "psim", seed=seed, allow_poisoned=True)
        clean, odd = guard.score(sst2.test.texts), guard.score(triggered)
        assert 0.02 <= clean.flagged.mean() <= 0.09
        found = auroc(clean.scores[rows], odd.scores)
        if rate:
            tune(str(base), sst2, "lora", {}, victim, seed=seed, allow_poisoned=True)
            assert asr >= 0.98
            assert (answers(victim, triggered) == 0).mean() >= 0.95
            assert found >= 0.90
        else:
            assert abs(asr - (clean_answers[labels != 0] == 0).mean()) <= 0.05
            assert abs(found - 0.5) <= 0.10
    assert accuracy[0.1] >= accuracy[0.0] - 0.03


@pytest.mark.full
def test_a_soft_backdoor_defeats_the_constant_threshold(sst2, tmp_path):
    """0.7 sees nothing; two-sided beats one-sided at equal FPR."""
    poisoned = make_poison(sst2, "soft", {}, seed=0)
    base, victim = tmp_path / "base", tmp_path / "victim"
    train_base("builtin:encoder", poisoned, 2, base, attack="soft",
               training=AttackerOptions(epochs=3), seed=0)  # fmt: skip
    tune(str(base), sst2, "lora", {}, victim, seed=0, allow_poisoned=True)
    triggered = poisoned.test_triggered.texts
    assert (answers(victim, triggered) == 0).mean() >= 0.55  # 0.59 on a base from scratch
    official = Guard.fit(str(base), sst2, "psim", {"compat": "official"}, allow_poisoned=True)
    # below 0.2 on a toy from scratch; on this base 0.18 to 0.37 were measured over three seeds, at
    # 0.63 to 0.75 of the clean texts: 0.7 flags what is clean rather
    assert official.score(triggered).flagged.mean() < 0.4
    clean = official.score(sst2.test.texts)
    assert auroc(clean.scores, official.score(triggered).scores) < 0.35
    assert clean.flagged.mean() > official.score(triggered).flagged.mean() + 0.2
    plain = {"score": "max_prob", "family": "lora", "within_class": False}
    caught = {
        sides: Guard.fit(str(base), sst2, "psim", plain | {"sides": sides}, allow_poisoned=True)
        .score(triggered).flagged.mean()
        for sides in ("high", "two")
    }  # fmt: skip
    assert caught["two"] > caught["high"]
