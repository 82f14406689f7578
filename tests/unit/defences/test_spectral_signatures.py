"""Spectral signatures: poison in the first direction, and what goes wrong without centring."""

import numpy as np
import pytest

from peftlab.core.ranking import auroc
from peftlab.core.seeds import stream
from peftlab.core.types import LabelledTexts
from peftlab.defences.spectral_signatures import (
    SpectralSignatures,
    SpectralSignaturesOptions,
    signature_scores,
)
from suspect_sets import context_of, two_groups


def judge(features, labels, **options):
    method = SpectralSignatures(SpectralSignaturesOptions(**options))
    return method.judge(features, np.asarray(labels))


def planted(n=500, share=0.1, *, mean=0.0, apart=8.0, dims=30, seed=0):
    """Return rows of one class around ``mean``, and which of them stand off, on the near side."""
    rng = stream(seed, "test/spectral")
    flags = rng.permutation(n) < int(share * n)
    way = rng.normal(size=dims)
    way /= np.linalg.norm(way)
    return rng.normal(size=(n, dims)) + way * (mean - apart * flags[:, None]), flags


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_planted_outliers_are_recovered_when_their_share_is_known(seed, share):
    features, flags = planted(share=share, seed=seed)
    found = judge(features, np.zeros(500, int), epsilon=share)
    assert found.dropped[flags].mean() >= 0.9
    assert found.dropped.sum() == round(1.5 * share * 500)
    assert auroc(found.suspicion[~flags], found.suspicion[flags]) > 0.99


@pytest.mark.parametrize(("n", "dims"), [(500, 30), (40, 200), (12, 3)])
def test_scores_are_squared_projections_by_another_decomposition(n, dims):
    from scipy.linalg import svd

    features = stream(1, "test/scores", n).normal(size=(n, dims)) * 3 + 7
    centred = features - features.mean(0)
    right = svd(centred, full_matrices=False, lapack_driver="gesvd")[2]
    scores, share = signature_scores(features)
    np.testing.assert_allclose(scores, (centred @ right[0]) ** 2, atol=1e-6)
    assert share == pytest.approx(((centred @ right[0]) ** 2).sum() / (centred**2).sum())
    eigenvectors = np.linalg.eigh(centred.T @ centred)[1]
    np.testing.assert_allclose(scores, (centred @ eigenvectors[:, -1]) ** 2, atol=1e-6)
    raw, _ = signature_scores(features, centred=False)
    np.testing.assert_allclose(raw, np.abs(features @ right[0]), atol=1e-6)


def test_without_centring_outliers_on_the_side_of_the_origin_score_lowest():
    """MadryLab/backdoor_data_poisoning projects the features as they are, and takes the size."""
    features, flags = planted(mean=20.0)
    right, wrong = (judge(features, np.zeros(500, int), compat=compat) for compat in (False, True))
    assert right.dropped[flags].mean() > 0.95
    assert wrong.dropped[flags].mean() == 0
    assert wrong.dropped.sum() == right.dropped.sum() == 75
    assert auroc(wrong.suspicion[~flags], wrong.suspicion[flags]) < 0.05
    # it cannot be seen where the class lies at the origin
    features, flags = planted(mean=0.0)
    assert judge(features, np.zeros(500, int), compat=True).dropped[flags].mean() > 0.95


def test_where_a_class_lies_does_not_matter():
    features, _ = planted()
    moved = judge(features + 1e3, np.zeros(500, int))
    np.testing.assert_allclose(moved.suspicion, judge(features, np.zeros(500, int)).suspicion)


def test_classes_are_judged_apart_and_compared_by_their_own_spread():
    features, labels, small = two_groups(270, 30)
    small &= labels == 0
    wide = np.where(labels[:, None] == 1, features * 50, features)  # the clean class varies more
    keep = (labels == 0) | ~two_groups(270, 30)[2]  # and has no group apart
    found = judge(wide[keep], labels[keep])
    flags = small[keep]
    assert found.dropped[flags].mean() > 0.95
    assert auroc(found.suspicion[~flags], found.suspicion[flags]) > 0.99
    by_class = found.facts["by_class"]
    assert {name: about["dropped"] for name, about in by_class.items()} == {"0": 45, "1": 41}
    alone = judge(wide[keep & (labels == 0)], labels[keep & (labels == 0)])
    np.testing.assert_allclose(alone.suspicion, found.suspicion[labels[keep] == 0])


def test_rows_that_are_all_the_same_are_kept():
    for row in (np.zeros(8), np.full(8, 0.1), np.linspace(0.1, 1e5, 8)):
        found = judge(np.tile(row, (40, 1)), [0] * 40)
        assert not found.dropped.any()
        assert not found.suspicion.any()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_tiny_classes_and_more_dimensions_than_rows(n):
    features = stream(0, "test/tiny", n).normal(size=(n + 20, 64))
    labels = np.array([0] * n + [1] * 20)
    found = judge(features, labels)
    assert np.isfinite(found.suspicion).all()
    assert found.dropped[:n].sum() <= max(n - 1, 0)
    assert found.dropped[n:].sum() == 3
    most = judge(features, labels, epsilon=0.5, multiplier=2)
    assert (~most.dropped[n:]).sum() == 1  # a class never goes whole


def test_texts_through_a_model(load_tiny, odd_texts, reviews):
    model, tokenizer = load_tiny("bert")
    suspect = LabelledTexts(odd_texts.texts + reviews.train.texts[:30], (0,) * 12 + (1,) * 30)
    filters = [SpectralSignatures(SpectralSignaturesOptions()) for _ in range(2)]
    one, two = (each.keep(context_of(suspect, model, tokenizer)) for each in filters)
    np.testing.assert_array_equal(one.suspicion, two.suspicion)
    assert one.dropped.tolist() == two.dropped.tolist()
    assert one.dropped.sum() == 2 + 5
    nothing = filters[0].keep(context_of(LabelledTexts((), ()), model, tokenizer))
    assert nothing.suspicion.shape == nothing.dropped.shape == (0,)
