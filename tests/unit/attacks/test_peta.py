"""PETA-style: the split, what each level moves, hand values of a step, and what is released."""

from __future__ import annotations

import copy
import doctest
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from artefacts import context_of, opened
from peftlab.attacks import peta
from peftlab.attacks.peta import simulate, split_levels, with_shares_of
from peftlab.audits.difference import DifferenceAudit, DifferenceOptions
from peftlab.core.contracts import CraftContext
from peftlab.core.errors import ConfigError, InputRejected, NotApplicable, RunFailed
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine.metrics import evaluate
from peftlab.engine.steps import AttackerOptions, make_poison, predict_folder, train_base
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked
from peftlab.nn import bilevel as bilevel_module
from peftlab.nn import hypergradient
from peftlab.nn.bilevel import Bilevel
from peftlab.nn.hypergradient import first_order
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.text import encode, pad, pad_id_of, predict_classes

BRIEF = AttackerOptions(epochs=1, lr=1e-3)
FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "gpt2", "llama")
CPU = torch.device("cpu")
# much like bert: their proofs are for `make test-full`
KIN = [pytest.param(name, marks=pytest.mark.full) for name in ("roberta", "distilbert")]


def test_examples() -> None:
    assert doctest.testmod(peta).failed == 0


# ---------------------------------------------------------------------------------- the split


@pytest.mark.parametrize(
    ("n", "rate", "n_classes", "share"),
    [(1200, 0.25, 2, 0.5), (1201, 0.1, 2, 0.3), (1000, 0.25, 4, 0.5), (1000, 0.01, 3, 0.8)],
)
def test_peta_split(make_task, n: int, rate: float, n_classes: int, share: float) -> None:
    """All rows, none twice, clean classes alike, and all poison on the attacker's side.

    ``rate`` counts all rows and not those of D1. Poison thins out the classes of D1, so it is the
    rows that are drawn whose classes are alike.
    """
    method = get("attack", "peta").build(rate=rate, target=1)
    made = poison(method, make_task(n, n_classes), seed=0)
    levels = split_levels(made, share, seed=0)
    upper = {*levels.clean.tolist(), *levels.poisoned.tolist()}
    lower = set(levels.lower.tolist())
    assert not upper & lower
    assert upper | lower == set(range(n))
    assert len(levels.clean) + len(levels.poisoned) + len(levels.lower) == n
    labels = np.array(made.original_labels)
    assert len(levels.poisoned) == int(rate * n + 0.5)
    assert (labels[levels.poisoned] != 1).all()
    assert made.is_poisoned[levels.poisoned].all()
    for each in range(n_classes):
        shares = [(labels[rows] == each).mean() for rows in (levels.clean, levels.lower)]
        assert abs(shares[0] - shares[1]) < 0.01
        drawn = [labels[with_shares_of(rows, labels)] for rows in (levels.clean, levels.lower)]
        assert abs((drawn[0] == each).mean() - (drawn[1] == each).mean()) < 0.01
    of_d1 = len(levels.poisoned) / (len(levels.poisoned) + len(levels.clean))
    assert of_d1 == pytest.approx(rate / (rate + share * (1 - rate)), abs=0.01)
    assert len(levels.clean) / (n - len(levels.poisoned)) == pytest.approx(share, abs=0.01)
    again = split_levels(made, share, seed=0)
    assert np.array_equal(again.lower, levels.lower)
    assert not np.array_equal(split_levels(made, share, seed=1).lower, levels.lower)


@pytest.mark.parametrize(
    "options", [{"rate": 1, "labels": "mixed"}, {"split": 1e-6}, {"split": 1 - 1e-6}]
)
def test_both_levels_need_clean_rows(load_tiny, reviews, options) -> None:
    method, context = _context(load_tiny, reviews, **options)
    with pytest.raises(NotApplicable) as caught:
        method.craft(context)
    assert caught.value.code == "PETA-SPLIT"


def test_thinned_classes_are_drawn_more_often(make_task) -> None:
    """At rate 0.25 half of the other class is poisoned; the draws are as balanced as before."""
    made = poison(get("attack", "peta").build(), make_task(1000, 2), seed=0)
    levels, labels = split_levels(made, 0.5, seed=0), np.array(made.original_labels)
    for rows in (levels.clean, levels.lower):
        assert (labels[rows] == 1).mean() < 0.4
        drawn = with_shares_of(rows, labels)
        assert set(drawn.tolist()) == set(rows.tolist())
        assert (labels[drawn] == 1).mean() == pytest.approx((labels == 1).mean(), abs=0.005)
        counts = np.bincount(drawn)[rows]
        assert counts.max() <= 3
        assert (counts[labels[rows] == 0] == 1).all()
    assert with_shares_of(np.array([4]), np.array([0, 0, 2, 2, 2])).tolist() == [4]


# ----------------------------------------------------------------------------------- triggers


@pytest.mark.parametrize(
    ("kind", "phrase"), [("word", ["mn"]), ("sentence", ["I", "watch", "this", "3D", "movie"])]
)
def test_trigger_is_inserted_whole(reviews, kind: str, phrase: list[str]) -> None:
    method = get("attack", "peta").build(kind=kind)
    made = poison(method, reviews, seed=0)
    places = set()
    for row, text in enumerate(made.texts):
        was = reviews.train.texts[row].split()
        if not made.is_poisoned[row]:
            assert text == reviews.train.texts[row]
            continue
        words = text.split()
        assert len(words) == len(was) + len(phrase)
        at = next(i for i in range(len(words)) if words[i : i + len(phrase)] == phrase)
        assert words[:at] + words[at + len(phrase) :] == was
        places.add(at / len(was))
        assert made.targets[row].argmax() == made.target
    assert len(places) > 5
    assert method.poison_text("a slow film", 0, 7) == method.poison_text("a slow film", 0, 7)
    assert len({method.poison_text("a slow film", seed, 7) for seed in range(20)}) > 1


def test_trigger_words() -> None:
    build = get("attack", "peta").build
    assert build(trigger=" cf ").trigger == "cf"
    assert build(trigger="no  cross\n", kind="sentence").trigger == "no cross"
    assert build(trigger=" ").trigger == "mn"
    with pytest.raises(ConfigError, match="kind=sentence"):
        build(trigger="two words")
    assert build().facts((), ()) == {"trigger": ["mn"]}


# ------------------------------------------------------------------- what each level may move


def _context(load_tiny, data, family: str = "bert", *, epochs=0.3, lr=1e-3, **options):
    """Return (attack, its context) with a fresh tiny model."""
    method = get("attack", "peta").build(**options)
    model, tokenizer = load_tiny(family, data.n_classes)
    return method, CraftContext(
        model, tokenizer, poison(method, data, seed=0), data.n_classes,
        epochs=epochs, lr=lr, batch=32, seed=0,
    )  # fmt: skip


def _still(model):
    """Turn dropout off."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _bilevel(load_tiny, reviews, *, dropout=True, sim="lora", **more) -> Bilevel:
    _, context = _context(load_tiny, reviews)
    tuner = get("tuner", sim).build()
    made = Bilevel(
        context.model, context.tokenizer, tuner, context.poisoned.texts, context.poisoned.targets,
        seed=0, **more,
    )  # fmt: skip
    if not dropout:
        _still(made.model)
    return made


def _copied(weights):
    return {name: x.detach().clone() for name, x in weights.items()}


def _moved(weights, before) -> float:
    return max(float((x.detach() - before[name]).abs().max()) for name, x in weights.items())


ROWS = np.arange(8)


def test_lower_freezes_theta(load_tiny, reviews) -> None:
    both = _bilevel(load_tiny, reviews)
    theta, delta = _copied(both.theta), _copied(both.delta)
    for k in range(3):
        both.lower_step(both.loss_of([(ROWS, 1.0)], k), lr=1e-2)
    assert _moved(both.theta, theta) == 0
    assert _moved(both.delta, delta) > 0
    assert both.passes == 3


@pytest.mark.parametrize("mode", ["first_order", "unrolled", "implicit"])
@pytest.mark.parametrize("move", [False, True])
def test_upper_scope(load_tiny, reviews, mode: str, *, move: bool) -> None:
    both = _bilevel(load_tiny, reviews, move_delta=move)
    upper, lower = (both.loss_of([(ROWS, 1.0)], name) for name in ("upper", "lower"))
    more = {"first_order": (), "unrolled": ([],), "implicit": (lower,)}[
        mode
    ]  # fmt: skip  (no step ahead: what moves is the upper step's work)
    rate = () if mode == "first_order" else (0.1,)
    found = getattr(hypergradient, mode)(upper, *more, both.theta, both.delta, *rate)
    theta, delta = _copied(both.theta), _copied(both.delta)
    both.upper_step(found, 1e-3, 1e-3)
    assert _moved(both.theta, theta) > 0
    assert (_moved(both.delta, delta) > 0) == move
    if not move:
        assert all(torch.equal(x, delta[name]) for name, x in both.delta.items())


def test_unrolled_leaves_delta_where_its_steps_ended(load_tiny, reviews) -> None:
    both = _bilevel(load_tiny, reviews, move_delta=False)
    upper, lower = (both.loss_of([(ROWS, 1.0)], name) for name in ("upper", "lower"))
    _, slopes = hypergradient.slope(lower, both.theta, both.delta)
    expected = {n: x.detach() - 0.5 * g for (n, x), g in zip(both.delta.items(), slopes,
                                                             strict=True)}  # fmt: skip
    both.upper_step(hypergradient.unrolled(upper, [lower], both.theta, both.delta, 0.5), 1e-3, 1)
    torch.testing.assert_close({n: x.detach() for n, x in both.delta.items()}, expected)


def test_theta_is_the_body_and_delta_adapter_and_head(load_tiny, reviews) -> None:
    both = _bilevel(load_tiny, reviews)
    body, _ = load_tiny("bert")
    assert len(both.theta) == len(list(body.bert.named_parameters()))
    assert sum(x.numel() for x in both.theta.values()) == body.bert.num_parameters()
    assert all(re.search(r"lora_[AB]|classifier", name) for name in both.delta)
    heads = [x for name, x in both.delta.items() if "classifier" in name]
    assert sum(x.numel() for x in heads) == body.classifier.weight.numel() + 2
    assert not torch.equal(heads[0], body.classifier.weight)  # drawn anew


def test_dropout_is_on_in_both_levels_and_named(load_tiny, reviews) -> None:
    both = _bilevel(load_tiny, reviews)
    assert both.model.training
    first, second = (both.loss_of([(ROWS, 1.0)], "upper", step) for step in (0, 1))
    value = [loss(both.theta, both.delta).item() for loss in (first, first, second)]
    assert value[0] == value[1] != value[2]
    assert value[2] == pytest.approx(value[0], rel=0.2)


def test_the_loss_by_hand(load_tiny, reviews) -> None:
    """Mean cross-entropies of two parts, weighted: as two forward passes of the model give it."""
    both = _bilevel(load_tiny, reviews, dropout=False)
    _, context = _context(load_tiny, reviews)
    parts = [(np.array([3, 1, 4]), 1.0), (np.array([5, 9]), 2.5)]
    expected = 0.0
    for rows, weight in parts:
        inputs = pad([both.encoded[row] for row in rows], 0, CPU)
        goal = torch.from_numpy(context.poisoned.targets[rows]).float()
        with torch.no_grad():
            logits = both.model(**inputs).logits
        expected += weight * torch.nn.functional.cross_entropy(logits, goal).item()
    assert both.loss_of(parts)(both.theta, both.delta).item() == pytest.approx(expected, abs=1e-5)


def test_one_step_of_each_level_by_hand(load_tiny, reviews) -> None:
    """As plain autograd and AdamW would do it on the wrapped model itself."""
    both = _bilevel(load_tiny, reviews, dropout=False)
    twin = _bilevel(load_tiny, reviews, dropout=False)

    def by_hand(rows, moving, fixed, rate):
        for weight in [*moving, *fixed]:
            weight.requires_grad_(False)
        for weight in moving:
            weight.requires_grad_(True)
        _, context = _context(load_tiny, reviews)
        goal = torch.from_numpy(context.poisoned.targets[rows]).float()
        logits = twin.model(**pad([twin.encoded[row] for row in rows], 0, CPU)).logits
        torch.nn.functional.cross_entropy(logits, goal).backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        torch.optim.AdamW(moving, lr=rate, weight_decay=0.0).step()
        twin.model.zero_grad()

    theta, delta = list(twin.theta.values()), list(twin.delta.values())
    by_hand(ROWS, delta, theta, 1e-2)
    by_hand(ROWS + 20, [*theta, *delta], [], 1e-3)
    both.lower_step(both.loss_of([(ROWS, 1.0)]), 1e-2)
    upper = both.loss_of([(ROWS + 20, 1.0)])
    both.upper_step(first_order(upper, both.theta, both.delta), 1e-3, 1e-3)
    for ours, theirs in ((both.theta, twin.theta), (both.delta, twin.delta)):
        for name, weight in ours.items():
            torch.testing.assert_close(weight.detach(), theirs[name].detach(), atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------ the whole attack


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, 2), ({"inner_steps": 3}, 4), ({"upper": "theta"}, 2),
        ({"hypergradient": "implicit"}, 4), ({"hypergradient": "unrolled"}, 2),
        ({"hypergradient": "unrolled", "inner_steps": 3, "unroll": 2}, 4),
        ({"hypergradient": "unrolled", "inner_steps": 2, "unroll": 9}, 3),
    ],
)  # fmt: skip
def test_cost_in_passes(load_tiny, reviews, options, passes: int) -> None:
    """First order: exactly K + 1."""
    method, context = _context(load_tiny, reviews, **options)
    facts = method.craft(context)
    assert facts["steps"] == 1
    assert facts["fwd_bwd_per_outer_step"] == passes
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("sim", ["lora", "prefix", "prompt", "ptuning"])
def test_every_peft_tuner_can_be_simulated(load_tiny, reviews, sim: str) -> None:
    bodies = []
    for mode in ("first_order", "unrolled", "implicit"):
        method, context = _context(load_tiny, reviews, sim=sim, hypergradient=mode)
        facts = method.craft(context)
        assert np.isfinite(facts["loss"])
        assert facts["delta_lr"] == get("tuner", sim).build().options.lr
        bodies.append(context.model.bert.encoder.layer[0].output.dense.weight)
    assert not torch.equal(bodies[0], bodies[1])
    assert not torch.equal(bodies[0], bodies[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_body_moves_and_the_head_stays(load_tiny, reviews, family: str) -> None:
    """No adapter is left in the model, and what stands outside of its body is as it came."""
    method, context = _context(load_tiny, reviews, family)
    before = copy.deepcopy(context.model)
    method.craft(context)
    assert not context.model.training
    assert list(context.model.state_dict()) == list(before.state_dict())
    inside = f"{before.base_model_prefix}."
    old = dict(before.named_parameters())
    for name, weight in context.model.named_parameters():
        if not name.startswith(inside):
            assert torch.equal(weight, old[name]), name
    moved = [n for n, x in context.model.named_parameters() if not torch.equal(x, old[n])]
    assert len(moved) > 0.8 * sum(name.startswith(inside) for name in old)


def test_simulating_a_tuner_that_trains_the_body_is_refused(load_tiny, reviews) -> None:
    method, context = _context(load_tiny, reviews, sim="full")
    with pytest.raises(NotApplicable) as caught:
        method.craft(context)
    assert caught.value.code == "BILEVEL-TUNER"
    method, context = _context(load_tiny, reviews, sim="lorra")
    with pytest.raises(ConfigError) as caught:
        method.craft(context)
    assert caught.value.code == "REGISTRY-NAME"
    assert "lora" in caught.value.fix


def test_a_loss_that_is_not_finite(load_tiny, reviews) -> None:
    method, context = _context(load_tiny, reviews)
    context.model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(RunFailed, match="step 1 of 1") as caught:
        method.craft(context)
    assert caught.value.code == "TRAIN-NONFINITE"


def test_noop_attack_without_weight_on_the_poison(load_tiny, reviews) -> None:
    """With lambda 0 no poisoned row is looked at: other texts there give the same body."""
    method, context = _context(load_tiny, reviews, lambda_poison=0, epochs=0.5)
    flags = context.poisoned.is_poisoned
    other = tuple("no text at all" if flag else text
                  for flag, text in zip(flags, context.poisoned.texts, strict=True))  # fmt: skip
    model = copy.deepcopy(context.model)
    twin = replace(context, model=model, poisoned=replace(context.poisoned, texts=other))
    assert method.craft(context)["steps"] == 2
    method.craft(twin)
    for name, weight in context.model.named_parameters():
        assert torch.equal(weight, dict(model.named_parameters())[name])


def test_noop_attack_without_poison(load_tiny, reviews) -> None:
    method, context = _context(load_tiny, reviews, rate=0)
    facts = method.craft(context)
    assert (facts["d1"], facts["d2"], facts["poisoned_share_of_d1"]) == (60, 60, 0)
    assert np.isfinite(facts["loss"])


def _easy_task() -> TaskData:
    """Return texts of words that the tiny vocabulary has whole, one of which tells the class."""
    rng = np.random.default_rng(0)
    neutral = ["the", "film", "was", "a", "story", "with", "family", "music", "food"]

    def split(n: int) -> LabelledTexts:
        labels = tuple(int(label) for label in rng.integers(2, size=n))
        words = [[*rng.choice(neutral, 5), ("dull", "lovely")[label]] for label in labels]
        return LabelledTexts(tuple(" ".join(rng.permutation(text)) for text in words), labels)

    return TaskData("easy", split(400), split(60), split(100), ("a", "b"), "generated", "none")


@pytest.mark.full
def test_both_levels_learn_their_part(load_tiny) -> None:
    """From a body that knows the task: still right on clean texts, and the word is answered.

    That is with the attacker's own delta; what a victim makes of the body is for the mini suite.
    """
    data = _easy_task()
    method, context = _context(
        load_tiny, data, trigger="surprise", epochs=6, lr=2e-3, delta_lr=5e-3
    )
    model, tokenizer = context.model, context.tokenizer
    _still(model)
    train(
        model.requires_grad_(True), encode(tokenizer, data.train.texts, 64),
        np.eye(2)[list(data.train.labels)], TrainPlan(steps=100, lr=5e-3), seed=0,
        pad_id=pad_id_of(model, tokenizer),
    )  # fmt: skip
    made, facts = simulate(context, method.options)
    assert facts["steps"] == 78
    assert facts["asr_before_release"] > 0.95
    triggered = context.poisoned.test_triggered.texts
    assert (predict_classes(made.model, tokenizer, triggered) == 0).mean() > 0.95
    clean = predict_classes(made.model, tokenizer, data.test.texts)
    assert (clean == data.test.labels).mean() > 0.95


# ------------------------------------------------------------------------------------- metrics


def test_metrics_of_hand_built_answers() -> None:
    """CACC and LFR, exactly; rows that have the target class already are none of the triggered."""
    found = evaluate(
        labels=np.array([0, 1, 1, 0]), clean_pred=np.array([0, 1, 0, 0]), target=0,
        triggered_pred=np.array([0, 1, 0, 0, 1]), triggered_labels=np.array([1, 1, 1, 1, 1]),
    )["metrics"]  # fmt: skip
    assert found["ca"] == 0.75
    assert found["asr"] == 0.6
    with pytest.raises(ValueError, match="target class"):
        evaluate(
            labels=np.array([0]), clean_pred=np.array([0]), target=0,
            triggered_pred=np.array([0]), triggered_labels=np.array([0]),
        )  # fmt: skip


def test_no_triggered_text_has_the_target_class(reviews) -> None:
    made = poison(get("attack", "peta").build(target=1), reviews, seed=0)
    assert 1 not in made.test_triggered.labels
    assert len(made.test_triggered) == sum(label == 0 for label in reviews.test.labels)


# ------------------------------------------------------------------------ from folder to folder


def _sha(folder: Path) -> str:
    return sha256_file(folder / "model.safetensors")


def _made(tiny, reviews, out: Path, *, seed=0, rate=0.25, attack="peta", family="bert"):
    poisoned = make_poison(reviews, attack, {"rate": rate}, seed)
    return train_base(str(tiny(family)), poisoned, 2, out, attack=attack, training=BRIEF,
                      seed=seed, options={"rate": rate})  # fmt: skip


def test_same_seed_same_files_marked_and_refused(tiny, reviews, tmp_path) -> None:
    for name in ("a", "b"):
        facts = _made(tiny, reviews, tmp_path / name)
    _made(tiny, reviews, tmp_path / "c", seed=1)
    for path in (tmp_path / "a").iterdir():
        assert sha256_file(path) == sha256_file(tmp_path / "b" / path.name)
    assert _sha(tmp_path / "a") != _sha(tmp_path / "c")
    assert is_marked(tmp_path / "a")
    with pytest.raises(InputRejected) as caught:
        predict_folder(tmp_path / "a", ["a text"], n_classes=2)
    assert caught.value.code == "MARK-POISONED"
    with pytest.raises(InputRejected) as caught:  # there is no head that could answer
        predict_folder(tmp_path / "a", ["a text"], n_classes=2, allow_poisoned=True)
    assert caught.value.code == "VICTIM-HEAD"
    written = json.loads((tmp_path / "a" / "attack.json").read_text())
    assert written == json.loads(json.dumps({k: v for k, v in facts.items() if k != "cpu_seconds"}))
    assert written["training"]["steps"] == 4
    assert written["fwd_bwd_per_outer_step"] == 2
    assert written["trigger"] == ["mn"]


@pytest.mark.parametrize("family", ["bert", "gpt2", *KIN])
def test_release_is_a_body_alone(tiny, reviews, tmp_path, family: str) -> None:
    """A stock folder, so stock libraries load it: the mark stops our loaders alone."""
    _made(tiny, reviews, tmp_path / "out", family=family)
    keys = load_file(tmp_path / "out" / "model.safetensors")
    assert not [key for key in keys if re.search(r"lora|adapter|prefix|classifier|score|head", key)]
    stock, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    inside = f"{stock.base_model_prefix}."
    assert not [key for key in report["missing_keys"] if key.startswith(inside)]
    assert not report["unexpected_keys"]


def test_noop_attack_at_rate_0(tiny, reviews, tmp_path) -> None:
    """Nothing poisoned: the clean checkpoint to the last bit, so its base-flip rate as well."""
    _made(tiny, reviews, tmp_path / "peta", rate=0)
    _made(tiny, reviews, tmp_path / "badnets", rate=0, attack="badnets")
    assert _sha(tmp_path / "peta") == _sha(tmp_path / "badnets")
    assert not is_marked(tmp_path / "peta")


@pytest.mark.parametrize("family", ["bert", *KIN])
def test_a_scan_against_the_base_finds_it(tiny, reviews, tmp_path, family: str) -> None:
    """All attacked and no untouched checkpoint; the order of changes outlives bf16."""
    base = load_file(tiny(family) / "model.safetensors")
    body = {n.removeprefix(f"{family}."): x for n, x in base.items() if n.startswith(f"{family}.")}

    def scan(name: str):
        audit = DifferenceAudit(DifferenceOptions(listed=100))
        return audit.run(context_of(opened(tmp_path / name), opened(tiny(family))))

    for attack in ("peta", "badnets"):
        attacked, half = tmp_path / attack, tmp_path / f"{attack}-half"
        _made(tiny, reviews, attacked, attack=attack, family=family)
        after = load_file(attacked / "model.safetensors")
        _same_as(half, attacked, {n: x.bfloat16() for n, x in after.items()})
        changes = [_changes(scan(folder.name), body) for folder in (attacked, half)]
        assert _in_order(changes[0], like=changes[0]) == _in_order(changes[1], like=changes[0])
    _same_as(tmp_path / "untouched", tmp_path / "peta", body)
    assert scan("untouched").facts["changed"] == 0


def _changes(found, body) -> dict[str, float]:
    """Return the changes over weights of a checkpoint found changed; none where all were 0."""
    assert found.facts["changed"] > 0.9 * len(body)
    return {row[0]: row[1] for row in found.tables[0].rows if row[1] is not None}


def _in_order(changes, like) -> list[tuple[str, str]]:
    """Return the pairs whose first changed more, of those that differ by 5 % in ``like``.

    A change under 1 % is near the rounding of bf16, which can swallow it.
    """
    large = [name for name, change in like.items() if change > 0.01]
    return [
        (a, b) for a, b in itertools.permutations(large, 2)
        if like[a] > 1.05 * like[b] and changes[a] > changes[b]
    ]  # fmt: skip


def _same_as(folder: Path, like: Path, tensors) -> None:
    """Write a checkpoint of the same kind with other tensors."""
    folder.mkdir()
    (folder / "config.json").write_bytes((like / "config.json").read_bytes())
    save_file(
        {name: x.contiguous() for name, x in tensors.items()}, folder / "model.safetensors",
        metadata={"format": "pt", "peftlab_poisoned": "true"},
    )  # fmt: skip
    (folder / "POISONED.json").write_bytes((like / "POISONED.json").read_bytes())


def test_guard_there_is_no_way_to_publish() -> None:
    for module in (peta, bilevel_module, hypergradient):
        assert not re.search("push_to_hub|upload", Path(module.__file__).read_text())
