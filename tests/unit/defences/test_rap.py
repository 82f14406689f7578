"""RAP: the trained row, the score, and the mistakes of public code."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from peftlab.core.errors import ConfigError, InputRejected, NotApplicable, PeftlabError, RunFailed
from peftlab.core.ranking import auroc
from peftlab.core.types import LabelledTexts
from peftlab.defences.rap import Descent, Rap, RapOptions, pick_word, planted, published_loss
from peftlab.defences.rap import surprise as surprise_of
from peftlab.engine.calibrate import Calibration, flags
from peftlab.nn.text import predict_logits, softmax
from tiny_models import FAMILIES


@pytest.fixture(scope="module")
def base(request):
    return request.getfixturevalue("planted")  # the name is also that of a function of rap


def fitted(base, **options):
    said = []
    rap = Rap(RapOptions(**options))
    rap.fit(replace(base.context, progress=said.append))
    return rap, said


@pytest.fixture(scope="module")
def trained(base):
    return fitted(base)


@pytest.fixture(scope="module")
def rap(trained):
    return trained[0]


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def logits_by_the_table(rap, base, texts, t):
    """Return logits of the texts with the word in front, row t written into the table itself."""
    model, tokenizer = base.context.load_base()
    before = state_of(model)
    with torch.no_grad():
        row = torch.from_numpy(rap.rows[t]).float()
        model.get_input_embeddings().weight[rap.about["token"]] = row
    for name, tensor in model.state_dict().items():
        same = (tensor == before[name]).reshape(len(tensor), -1).all(dim=1) if tensor.dim() else ()
        if name.endswith("word_embeddings.weight"):
            assert np.flatnonzero(~same.numpy()).tolist() == [rap.about["token"]]
        else:
            assert torch.equal(tensor, before[name])
    return predict_logits(model, tokenizer, [f"{rap.about['word']} {text}" for text in texts])


def test_one_row_a_class_moves_and_keeps_its_norm(rap, base):
    """One row of the embedding, norm to 1e-5, every other tensor bit-equal."""
    first = base.model.get_input_embeddings().weight[rap.about["token"]].detach().numpy()
    assert rap.rows.shape == (2, len(first))
    norms = np.linalg.norm(rap.rows, axis=1)
    np.testing.assert_allclose(norms, np.linalg.norm(first), rtol=0, atol=1e-5)
    assert (np.abs(rap.rows - first).max(axis=1) > 1e-3).all()
    assert np.abs(rap.rows[0] - rap.rows[1]).max() > 1e-3
    model, _ = rap._live
    rap.score(base.clean.texts[:10])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, base.model.state_dict()[name]), name
    assert not model.get_input_embeddings()._forward_hooks


def test_the_drop_is_that_of_a_changed_table(rap, base):
    """The planted row does what the row in the table does, to the naive loop's answer."""
    texts = base.clean.texts[:30]
    chances = softmax(predict_logits(base.model, base.tokenizer, texts))
    drops, predicted = rap._drops(texts)
    np.testing.assert_array_equal(predicted, chances.argmax(axis=1))
    for t in (0, 1):
        shaken = softmax(logits_by_the_table(rap, base, texts, t))
        own = predicted == t
        expected = (chances - shaken)[own, t]
        np.testing.assert_allclose(drops[own], expected, rtol=0, atol=1e-5)


def test_clean_reference_texts_fall_into_the_range(trained, base):
    """In [0.1, 0.3], or else there is a warning."""
    rap, said = trained
    about = rap.diagnostics()
    drops, predicted = rap._drops(base.context.reference.texts)
    for t, mean in enumerate(about["mean_drop"]):
        assert mean == pytest.approx(drops[predicted == t].mean())
        assert any(f"class {t} lowers" in line for line in about["warnings"]) != (
            0.1 <= mean <= 0.3
        )
    assert [f"warning: {line}" for line in about["warnings"]] == [
        line for line in said if line.startswith("warning")
    ]
    own = base.model.get_input_embeddings().weight[about["token"]].detach().double().numpy()
    for t in (0, 1):  # training is what makes them fall
        texts = [base.context.reference.texts[int(i)] for i in np.flatnonzero(predicted == t)]
        gained = (
            softmax(rap._shaken(texts, own))[:, t] - softmax(rap._shaken(texts, rap.rows[t]))[:, t]
        )
        assert gained.mean() > 0.02


def test_a_range_that_is_met_ends_the_training_without_a_warning(base):
    """The other side; on this toy no word of its norm lowers both classes by 0.1."""
    rap, said = fitted(base, low=0.02, high=0.16, scale=10)
    about = rap.diagnostics()
    assert all(0.02 <= mean <= 0.16 for mean in about["mean_drop"])
    assert not about["warnings"]
    assert not any("warning" in line for line in said)
    assert about["steps"] == [15, 15]  # five passes over each class, and no more


def test_a_range_that_is_missed_is_warned_of(base):
    rap, said = fitted(base, low=0.9, high=0.95, epochs=1, steps=1)
    assert rap.diagnostics()["steps"] == [3, 3]
    assert sum("raise scale, steps or lr" in line for line in said) == 2
    assert len(rap.diagnostics()["warnings"]) == 2


@pytest.fixture(scope="module")
def four(load_tiny, base):
    """Return RAP fitted on a random base that takes the texts for four classes, and that base."""
    model, tokenizer = load_tiny("bert", 4)
    texts = base.context.fit.texts[:120]
    logits = torch.from_numpy(predict_logits(model, tokenizer, texts)).float()
    with torch.no_grad():  # a random base answers all texts all but alike
        model.classifier.weight.mul_(2 / logits.std(dim=0)[:, None])
        model.classifier.bias.copy_(-2 * logits.median(dim=0).values / logits.std(dim=0))
    answers = predict_logits(model, tokenizer, texts).argmax(axis=1)
    context = replace(
        base.context, fit=LabelledTexts(texts, tuple(answers.tolist())), n_classes=4,
        load_base=lambda _=None: (copy.deepcopy(model), tokenizer),
    )  # fmt: skip
    random = SimpleNamespace(model=model, context=context)
    return fitted(random, epochs=2, steps=1)[0], random


def p_of_each_class(rap, base, texts):
    """Return how seldom a clean reference text falls as little, (n, C): smoothed, and counted.

    The word of each class is tried on all texts, from the table; a class that a text is not
    predicted as says nothing and has p = 1.
    """
    m = len(base.context.reference)
    every = (*base.context.reference.texts, *texts)
    chances = softmax(predict_logits(*base.context.load_base(), every))
    predicted = chances.argmax(axis=1)
    smooth, counted = np.ones((2, len(texts), chances.shape[1]))
    for t in range(chances.shape[1]):
        drops = chances[:, t] - softmax(logits_by_the_table(rap, base, every, t))[:, t]
        clean = drops[:m][predicted[:m] == t]
        points = np.quantile(clean, (np.arange(100) + 0.5) / 100)
        for i in np.flatnonzero(predicted[m:] == t):
            smooth[i, t] = np.mean(1 / (1 + np.exp(-(drops[m + i] - points) / 0.02)))
            counted[i, t] = np.mean(clean <= drops[m + i])
    return smooth, counted


def test_a_word_is_trained_for_each_of_four_classes(four):
    """C trainings, and each has its own row of the first one's norm."""
    rap, base = four
    about = rap.diagnostics()
    first = base.model.get_input_embeddings().weight[about["token"]].detach().numpy()
    assert about["trained"] == [True] * 4
    assert [len(about[each]) for each in ("steps", "mean_drop", "reference_texts")] == [4, 4, 4]
    assert min(about["steps"]) > 0
    rows = np.vstack([rap.rows, first])
    gaps = np.abs(rows[:, None] - rows).max(axis=2)[np.triu_indices(5, 1)]
    assert gaps.min() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.linalg.norm(first), atol=1e-5)


@pytest.fixture(scope="module", params=[2, 4])
def judged(request, rap, base, four):
    """Return RAP, fresh and calibration texts, and for either the p of each class (twice)."""
    fresh = (*base.clean.texts, *base.triggered[:30])
    rap, base = four if request.param == 4 else (rap, base)
    clean = base.context.fit.texts[:99]
    return SimpleNamespace(
        n_classes=request.param, rap=rap, fresh=fresh, clean=clean,
        p_fresh=p_of_each_class(rap, base, fresh), p_clean=p_of_each_class(rap, base, clean),
    )  # fmt: skip


def test_the_smallest_p_of_all_classes_is_that_of_the_predicted_one(judged):
    """C trainings, and the score is -log of the smallest of C p-values."""
    assert judged.rap.diagnostics()["trained"] == [True] * judged.n_classes
    scores = judged.rap.score(judged.fresh)
    smooth, counted = judged.p_fresh
    assert smooth.shape == (len(judged.fresh), judged.n_classes)
    np.testing.assert_array_equal(scores.predicted, smooth.argmin(axis=1))
    assert set(scores.predicted) == set(range(judged.n_classes))
    np.testing.assert_allclose(scores.values, -np.log(smooth.min(axis=1)), rtol=0, atol=0.01)
    for t in range(judged.n_classes):  # within a class the order is that of the bare count
        own = scores.predicted == t
        assert (np.diff(counted[own, t][np.argsort(scores.values[own])]) <= 0.01).all()


def bonferroni(p):
    """Return min(1, C p) for the smallest p of each text."""
    return np.array([min(1.0, len(row) * min(row)) for row in p.tolist()])


def among_the_smallest(own, clean, alpha):
    """Return which numbers are so small that few of the clean ones are, counted one by one."""
    rank = [1 + sum(each <= mine for each in clean) for mine in own]
    return np.array(rank) / (len(clean) + 1) <= alpha


def test_bonferronis_factor_changes_neither_order_nor_decision(judged):
    """With min(1, C p) itself: smoothed as the score is, and by the bare count."""
    scores = judged.rap.score(judged.fresh)
    (smooth, counted), clean = (
        [bonferroni(p) for p in both] for both in (judged.p_fresh, judged.p_clean)
    )
    assert 0.1 < (smooth == 1).mean() < 0.9  # the factor is not lost in the calibration alone
    assert (np.diff(np.log(smooth[np.argsort(scores.values)])) <= 0.01).all()
    for alpha in (0.05, 0.2):
        calibration = Calibration(judged.rap.score(judged.clean).values, alpha=alpha)
        flagged = flags(calibration, scores)
        assert 0 < flagged.sum() < len(flagged) / 2
        np.testing.assert_array_equal(among_the_smallest(smooth, clean[0], alpha), flagged)
        assert (among_the_smallest(counted, clean[1], alpha) == flagged).mean() > 0.95


def test_classes_are_comparable(rap, base):
    """Clean texts of either class are as suspicious as those of the other, by construction."""
    scores = rap.score(base.context.reference.texts)
    for t in (0, 1):
        own = scores.values[scores.predicted == t]
        assert 0.6 < own.mean() < 1.4  # -log of a uniform number has the mean 1


def test_published_loss_by_hand():
    d = torch.tensor([0.1, -0.05, -0.2, -0.5])
    assert float(published_loss(d, 0.1, 0.3, 1.0)) == pytest.approx((0.2 + 0.05 + 0.2) / 4)
    assert float(published_loss(d, 0.1, 0.3, 3.0)) == pytest.approx((3 * 0.25 + 0.2) / 4)


def test_descent_adds_up_gradients_and_keeps_the_norm():
    start = torch.tensor([3.0, 4.0])
    descent, row, total = Descent(start, lr=0.1), start.clone(), torch.zeros(2)
    for slope in ([1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]):
        old = descent.row
        descent.step((descent.row * torch.tensor(slope)).sum())
        total = total + torch.tensor(slope)
        row = row - 0.1 * total
        row = row * 5 / row.norm()
        torch.testing.assert_close(descent.row.detach(), row)
        assert old is not descent.row
    assert torch.equal(start, torch.tensor([3.0, 4.0]))


def test_a_text_with_the_word_itself_keeps_its_own(rap, base):
    model, tokenizer = base.context.load_base()
    word, token = rap.about["word"], rap.about["token"]
    ids = torch.tensor([tokenizer(f"{word} the film {word}")["input_ids"]])
    table = model.get_input_embeddings()
    before = table(ids)
    row = torch.full((before.shape[2],), 7.0)
    with planted(model, token, row):
        after = table(ids)
    changed = (after != before).any(dim=2)[0]
    assert np.flatnonzero(changed.numpy()).tolist() == [1]  # after [CLS]
    assert (after[0, 1] == 7).all()
    assert torch.equal(table(ids), before)


def test_surprise_is_smooth_and_rises_as_drops_shrink():
    clean = np.sort(np.random.default_rng(0).normal(0.2, 0.1, 100))
    drops = np.linspace(-0.9, 0.9, 2001)
    found = surprise_of(drops, np.broadcast_to(clean, (2001, 100)))
    assert (np.diff(found) < 0).all()
    assert np.abs(np.diff(found)).max() <= (drops[1] - drops[0]) / 0.02 + 1e-9
    assert np.isfinite(surprise_of(np.array([-1.0, 1.0]), np.zeros((2, 100)))).all()


def test_the_word_is_rare_and_one_token(rap, base):
    texts = (*base.context.fit.texts, *base.context.reference.texts)
    word, token = pick_word(base.tokenizer, texts, None, 0)
    assert (word, token) == (rap.about["word"], rap.about["token"])
    assert base.tokenizer(word, add_special_tokens=False)["input_ids"] == [token]
    assert word not in " ".join(texts).split()
    assert len({pick_word(base.tokenizer, texts, None, seed)[0] for seed in range(20)}) > 5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_is_found_and_planted_in_every_family(family, load_tiny, base):
    short = base.context.fit.pick(range(40)), base.context.reference.pick(range(20))
    context = replace(
        base.context, fit=short[0], reference=short[1], load_base=lambda _=None: load_tiny(family)
    )
    rap = Rap(RapOptions(epochs=1, steps=1))
    rap.fit(context)
    texts = base.clean.texts[:6]
    scores = rap.score(texts)
    assert np.isfinite(scores.values).all()
    model, _ = rap._live
    t = int(scores.predicted[0])
    other = softmax(rap._shaken(texts, -3 * rap.rows[t]))
    assert np.abs(other - softmax(rap._shaken(texts, rap.rows[t]))).max() > 0  # the row is in use
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("word", ["film", "zzyzx", "", "[SEP]", "quiet joy"])
def test_a_word_that_will_not_do(base, word):
    with pytest.raises(ConfigError) as caught:
        fitted(base, word=word)
    assert caught.value.code == "RAP-WORD"


def test_a_wanted_word(base):
    rap, _ = fitted(base, word="surprise", epochs=1, steps=1)
    assert rap.diagnostics()["word"] == "surprise"


def test_a_tokenizer_without_words(base):
    class Letters:
        """Knows letters only."""

        all_special_ids = ()
        eos_token_id = pad_token_id = unk_token_id = 0

        def __len__(self):
            return 26

        def __call__(self, texts, **_):
            rows = [
                [ord(c) % 26 for c in text]
                for text in ([texts] if isinstance(texts, str) else texts)
            ]
            return {"input_ids": rows[0] if isinstance(texts, str) else rows}

        def convert_ids_to_tokens(self, number):
            return chr(ord("a") + number)

    context = replace(
        base.context, load_base=lambda _=None: (base.context.load_base()[0], Letters())
    )
    with pytest.raises(NotApplicable) as caught:
        Rap(RapOptions()).fit(context)
    assert caught.value.code == "RAP-TOKENIZER"


def test_an_empty_range_and_too_few_texts(base):
    with pytest.raises(ConfigError) as caught:
        fitted(base, low=0.3, high=0.1)
    assert caught.value.code == "RAP-RANGE"
    with pytest.raises(ConfigError) as caught:
        Rap(RapOptions()).fit(replace(base.context, reference=base.clean.pick(range(9))))
    assert caught.value.code == "REFERENCE-FEW"


def test_a_class_without_texts_trains_nothing_and_says_so(base):
    ones = [i for i, label in enumerate(base.context.fit.labels) if label == 1]
    said = []
    rap = Rap(RapOptions(epochs=1, steps=1))
    rap.fit(replace(base.context, fit=base.context.fit.pick(ones), progress=said.append))
    about = rap.diagnostics()
    assert about["trained"] == [False, True]
    assert about["steps"] == [0, about["steps"][1]]
    assert any("class 0" in line for line in about["warnings"])
    assert any(line.startswith("warning: rap trains no word for class 0") for line in said)
    assert np.isfinite(rap.score(base.clean.texts[:10]).values).all()


def test_a_loss_that_is_not_finite(base):
    model, tokenizer = base.context.load_base()
    with torch.no_grad():
        model.classifier.weight.fill_(float("inf"))
    labelled = LabelledTexts(base.context.fit.texts, (0,) * len(base.context.fit))
    context = replace(base.context, fit=labelled, load_base=lambda _=None: (model, tokenizer))
    with pytest.raises(RunFailed) as caught:
        Rap(RapOptions()).fit(context)
    assert caught.value.code == "TRAIN-NONFINITE"


def test_save_and_load(rap, base, tmp_path):
    rap.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rap.json", "rows.safetensors"]
    again = Rap(RapOptions())
    again.load(tmp_path, base.context.load_base)
    texts = (*base.clean.texts[:20], *base.triggered[:5], "", "\ud800")
    before, after = rap.score(texts), again.score(texts)
    np.testing.assert_allclose(after.values, before.values, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(after.predicted, before.predicted)
    assert again.diagnostics() == rap.diagnostics()


@pytest.mark.parametrize(
    "change",
    [{"format": "x"}, {"word": "film"}, {"word": 3}, {"token": "3"}, {"trained": [True]},
     {"mean_drop": None}],
)  # fmt: skip
def test_a_tampered_state_is_refused(rap, base, tmp_path, change):
    rap.save(tmp_path)
    path = tmp_path / "rap.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputRejected) as caught:
        Rap(RapOptions()).load(tmp_path, base.context.load_base)
    assert caught.value.code == "RAP-STATE"


def test_rows_of_another_shape_are_refused(rap, base, tmp_path):
    from safetensors.numpy import save_file

    for arrays in ({"rows": rap.rows[:, :5], "clean": rap.clean}, {"rows": rap.rows},
                   {"rows": rap.rows, "clean": rap.clean[:1]},
                   {"rows": rap.rows * np.nan, "clean": rap.clean}):  # fmt: skip
        rap.save(tmp_path)
        save_file(
            {k: np.ascontiguousarray(v) for k, v in arrays.items()}, tmp_path / "rows.safetensors"
        )
        with pytest.raises(InputRejected) as caught:
            Rap(RapOptions()).load(tmp_path, base.context.load_base)
        assert caught.value.code == "RAP-STATE"


def test_order_and_batch_mates_do_not_matter(rap, base):
    texts = (*base.clean.texts[:30], "", "film " * 300)
    whole = rap.score(texts).values
    np.testing.assert_allclose(rap.score(texts[::-1]).values[::-1], whole, rtol=1e-5, atol=1e-5)
    alone = [rap.score([text]).values[0] for text in texts[:6]]
    np.testing.assert_allclose(alone, whole[:6], rtol=1e-5, atol=1e-5)
    assert rap.score([]).values.shape == (0,)


def test_a_planted_trigger_is_found(rap, base):
    """Measured on this toy: 0.82; among texts predicted as class 0, 0.87.

    Weaker elsewhere: 0.69 and 0.74 on the built-in encoder, 1000 reviews, one seed.
    """
    answers = predict_logits(base.model, base.tokenizer, base.triggered).argmax(axis=1)
    assert (answers == 0).mean() > 0.95  # there is something to find
    clean, triggered = rap.score(base.clean.texts), rap.score(base.triggered)
    assert auroc(clean.values, triggered.values) > 0.7
    alike = clean.values[clean.predicted == 0]
    assert auroc(alike, triggered.values[triggered.predicted == 0]) > 0.7


def test_unfitted_is_said():
    with pytest.raises(PeftlabError) as caught:
        Rap(RapOptions()).score(["a text"])
    assert caught.value.code == "DEFENCE-UNFITTED"
