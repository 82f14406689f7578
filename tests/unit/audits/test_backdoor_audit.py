import json
import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from artefacts import blocks, codes, low_rank, opened, write_adapter
from peftlab.audits.backdoor.audit import judge
from peftlab.audits.backdoor.bank import ABOUT, NAMES, ROWS, AdapterBank, statistics_of
from peftlab.audits.backdoor.classifier import (
    cross_scores,
    fit,
    folds,
    p_value,
    strangeness,
)
from peftlab.core.errors import InputRejected
from peftlab.core.ranking import auroc
from peftlab.core.seeds import stream
from peftlab.io.adapter_layout import read_layout
from peftlab.io.gate import open_artefact


def made_up(n=40, pairs=6, shift=1.0, seed=0):
    """Return a bank of 2 n adapters; backdoored ones differ in two of five numbers."""
    rng = stream(seed, "made up bank")
    rows = rng.normal(size=(2 * n, pairs, 5))
    backdoored = np.arange(2 * n) % 2 == 1
    rows[backdoored, :, :2] += shift
    about = {"adapters": [{"attack": "badnets" if bad else ""} for bad in backdoored]}
    return AdapterBank(rows, backdoored, tuple(f"layer.{i} (8 x 8)" for i in range(pairs)), about)


def told_apart(rows, labels):
    scores = cross_scores(rows, labels, 0)
    return auroc(scores[~labels], scores[labels])


def flat(bank):
    return bank.rows.reshape(len(bank), -1)


def factors(**options):
    """Return the tensors of an adapter of six layers of one shape, in full precision."""
    return {name: tensor.double() for name, tensor in low_rank(blocks(3), **options).items()}


def rows_of(folder, tensors, **config):
    """Return the statistics of an adapter that went to disk and came back through the gate."""
    with opened(write_adapter(folder, tensors, **config)) as artefact:
        return statistics_of(artefact, read_layout(artefact))


def of_layer(tensors, number):
    """Return the names of A and B of one of the layers, in their order."""
    return sorted(tensors)[2 * number : 2 * number + 2]


def test_an_adapter_has_five_statistics_of_each_update(tmp_path):
    tensors = factors()
    rows = rows_of(tmp_path, tensors, lora_alpha=8)
    assert rows.shape == (6, len(NAMES)) == (6, 5)
    for row, number in zip(rows, range(6), strict=True):
        a, b = (tensors[name].numpy() for name in of_layer(tensors, number))
        values = np.linalg.svd(8 / 4 * b @ a, compute_uv=False)
        sizes = [np.log(values[0]), np.log(values**2 @ np.ones(32)) / 2]
        np.testing.assert_allclose(row[:2], sizes, rtol=1e-9)


def test_swapped_layers_swap_the_rows(tmp_path):
    """Which update is whose matters."""
    tensors = factors()
    before = rows_of(tmp_path / "before", tensors)
    for one, other in zip(of_layer(tensors, 1), of_layer(tensors, 4), strict=True):
        tensors[one], tensors[other] = tensors[other], tensors[one]
    after = rows_of(tmp_path / "after", tensors)
    assert np.array_equal(after, before[[0, 4, 2, 3, 1, 5]])
    assert (np.abs(before[1] - before[4]) > 1e-3).all()


def test_rotated_factors_are_the_same_update(tmp_path):
    """B Q and Q^-1 A have the statistics of B and A."""
    tensors = factors()
    before = rows_of(tmp_path / "before", tensors)
    for number in range(6):
        a, b = of_layer(tensors, number)
        q = torch.from_numpy(stream(number, "rotation").normal(size=(4, 4)))
        tensors[a], tensors[b] = torch.linalg.solve(q, tensors[a]), tensors[b] @ q
    np.testing.assert_allclose(rows_of(tmp_path / "after", tensors), before, rtol=0, atol=1e-9)


def test_a_doubled_alpha_is_one_step_of_the_sizes_and_of_nothing_else(tmp_path):
    """The scale alpha / r counts."""
    before, after = (rows_of(tmp_path / str(a), factors(), lora_alpha=a) for a in (8, 16))
    step = np.log(2) * np.isin(NAMES, ["largest", "frobenius"])
    np.testing.assert_allclose(after - before, np.tile(step, (6, 1)), rtol=0, atol=1e-9)


def test_an_adapter_in_a_pickle_is_refused(tmp_path):
    """Safetensors only."""
    folder = write_adapter(tmp_path, factors())
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"never": "read"}))
    artefact, checks = open_artefact(str(folder))
    assert artefact is None
    (stopped,) = (check for check in checks if check.status == "stopped")
    assert "GATE-PICKLE" in codes(stopped.findings)


def test_the_fit_is_that_of_scikit_learn():
    bank = made_up(n=15)
    rows = flat(bank)[: 2 * 15 - 7]  # classes of unequal size
    labels = bank.backdoored[: len(rows)]
    ours = fit(rows, labels, l2=0.5)
    centred = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    # its loss is C * sum of weighted losses + |w|^2 / 2, with class weights n / (2 n_class)
    other = LogisticRegression(
        C=1 / (0.5 * len(rows)), class_weight="balanced", tol=1e-12, max_iter=10_000
    ).fit(centred, labels)
    assert np.allclose(ours.scores(rows), other.decision_function(centred), atol=1e-6)


def test_a_constant_feature_says_nothing():
    bank = made_up(n=10)
    rows = np.hstack([flat(bank), np.full((len(bank), 1), 7.0)])
    made = fit(rows, bank.backdoored)
    assert made.weights[-1] == 0
    moved = rows.copy()
    moved[:, -1] = 1e6
    assert np.allclose(made.scores(rows), made.scores(moved))


def test_folds_are_even_of_each_kind():
    labels = np.arange(33) % 3 == 0
    fold = folds(labels, seed=3)
    for kind in (True, False):
        counts = np.bincount(fold[labels == kind], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_told_apart_where_there_is_a_difference_and_not_where_labels_are_shuffled():
    bank = made_up(n=40)
    assert told_apart(flat(bank), bank.backdoored) >= 0.9
    control = []
    for k in range(5):
        labels = stream(k, "shuffle").permutation(bank.backdoored)
        control.append(told_apart(flat(bank), labels))
    assert np.mean(control) == pytest.approx(0.5, abs=0.15)


def test_a_clean_adapter_is_called_backdoored_at_most_as_often_as_alpha_says():
    bank = made_up(n=40)
    fresh = made_up(n=200, seed=1)
    p = np.array([
        judge(bank, fresh.rows[i], strange=1.0, seed=0).p for i in range(0, len(fresh), 8)
    ])  # fmt: skip
    assert (p <= 0.1).mean() <= 0.25  # 50 draws: 0.1 and its luck
    bad = [judge(bank, fresh.rows[i], strange=1.0, seed=0).p for i in range(1, len(fresh), 16)]
    assert np.median(bad) <= 0.05


def test_p_counts_the_new_adapter():
    assert p_value(9.0, np.array([1.0, 2.0, 3.0])) == 0.25
    assert p_value(2.0, np.array([1.0, 2.0, 3.0])) == 0.75


def test_an_adapter_unlike_the_bank_gets_no_verdict():
    bank = made_up(n=20)
    assert judge(bank, bank.rows[0] + 0.01, strange=0.95, seed=0).known
    assert not judge(bank, bank.rows[0] + 10, strange=0.95, seed=0).known


def test_distances_are_those_of_the_slow_definition():
    rows = stream(4, "rows").normal(size=(6, 3)) * [1, 10, 100]
    ours, among = strangeness(rows, rows[:2] + 1)
    std = rows.std(axis=0)
    slow = [
        min(np.sqrt((((point - row) / std) ** 2).mean()) for row in rows) for point in rows[:2] + 1
    ]
    assert np.allclose(ours, slow)
    assert among.min() > 0


def test_a_bank_comes_back_as_it_was_saved(tmp_path):
    bank = made_up(n=12)
    bank.save(tmp_path / "bank")
    back = AdapterBank.load(tmp_path / "bank")
    assert np.array_equal(back.rows, bank.rows)
    assert np.array_equal(back.backdoored, bank.backdoored)
    assert (back.layers, back.about) == (bank.layers, bank.about)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"kind": "size"}, "BANK-KIND"),
        ({"layers": ["one"]}, "BANK-BROKEN"),
        ({"backdoored": [1, 0]}, "BANK-BROKEN"),
        ({"about": None}, "BANK-BROKEN"),
    ],
)
def test_a_damaged_bank_is_refused(tmp_path, change, code):
    made_up(n=10).save(tmp_path / "bank")
    about = json.loads((tmp_path / "bank" / ABOUT).read_text())
    (tmp_path / "bank" / ABOUT).write_text(json.dumps({**about, **change}))
    with pytest.raises(InputRejected) as caught:
        AdapterBank.load(tmp_path / "bank")
    assert caught.value.code == code


def test_statistics_that_are_not_finite_are_refused(tmp_path):
    bank = made_up(n=10)
    bank.rows[3, 2, 1] = np.nan
    bank.save(tmp_path / "bank")
    with pytest.raises(InputRejected, match="BANK-BROKEN"):
        AdapterBank.load(tmp_path / "bank")


def test_a_file_with_other_tensors_is_refused(tmp_path):
    from safetensors.numpy import save_file

    made_up(n=10).save(tmp_path / "bank")
    save_file({"rows": np.zeros((2, 2), dtype=np.float32)}, tmp_path / "bank" / ROWS)
    with pytest.raises(InputRejected, match="BANK-BROKEN"):
        AdapterBank.load(tmp_path / "bank")
