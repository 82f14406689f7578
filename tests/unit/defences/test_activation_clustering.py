"""Activation clustering: the small cluster of a class, its rules, the mistakes of public code."""

import numpy as np
import pytest

from peftlab.core.errors import ResourceLimit
from peftlab.core.ranking import auroc
from peftlab.core.seeds import stream
from peftlab.core.types import LabelledTexts
from peftlab.defences.activation_clustering import (
    FEWEST,
    ActivationClustering,
    ActivationClusteringOptions,
)
from peftlab.nn import clustering
from suspect_sets import context_of, two_groups


def judge(features, labels, seed=0, **options):
    method = ActivationClustering(ActivationClusteringOptions(**options))
    return method.judge(features, np.asarray(labels), seed)


@pytest.mark.parametrize("reduce", ["pca", "whitened"])
@pytest.mark.parametrize("seed", range(3))
def test_the_small_group_is_dropped_and_the_large_one_kept(seed, reduce):
    """90 to 10, per class."""
    features, labels, small = two_groups(360, 40, seed=seed)
    found = judge(features, labels, dims=10 if reduce == "pca" else 2, reduce=reduce)
    assert found.dropped[small].mean() >= 0.95
    assert found.dropped[~small].mean() <= 0.01
    assert auroc(found.suspicion[~small], found.suspicion[small]) > 0.99


@pytest.mark.parametrize("rule", ["relative-size", "silhouette", "distance"])
def test_one_group_loses_nothing(rule):
    features, labels, _ = two_groups(400, 0)
    found = judge(features, labels, rule=rule)
    assert found.dropped.mean() <= 0.01
    assert (found.suspicion <= 0).all()


def test_the_rule_smaller_halves_a_clean_set():
    """ART's default, and why it is not ours."""
    features, labels, _ = two_groups(400, 0)
    assert 0.4 < judge(features, labels, rule="smaller").dropped.mean() <= 0.5


def test_a_small_group_that_is_none_is_told_by_its_silhouette():
    """A third of one cloud is small, but no group of its own."""
    rng = stream(0, "test/cloud")
    features = rng.exponential(size=(400, 6))
    sizes = judge(features, [0] * 400, rule="relative-size", dims=6)
    assert sizes.dropped.mean() > 0.2
    assert sizes.facts["by_class"]["0"]["smaller"] < 0.35
    both = judge(features, [0] * 400, silhouette=0.4, dims=6)
    assert 0.1 < both.facts["by_class"]["0"]["silhouette"] < 0.4
    assert not both.dropped.any()
    np.testing.assert_allclose(both.suspicion, sizes.suspicion - 1)


def test_the_silhouette_is_sklearns():
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    features, labels, _ = two_groups(180, 20)
    points = PCA(10).fit_transform(features[labels == 1])
    split = KMeans(2, n_init=10, random_state=0).fit_predict(points)
    about = judge(features, labels).facts["by_class"]["1"]
    assert about["silhouette"] == pytest.approx(silhouette_score(points, split))
    assert about["smaller"] == pytest.approx(min(split.mean(), 1 - split.mean()))


def art_silhouette_verdict(clusters, small, *, sure):
    """Return ART's verdict (1 clean, 0 poisoned, None never written) of each row of a class.

    Where a small cluster is cohesive, its number is put on both lists, the clean and the poisoned.
    """
    poisoned = {small} if sure else set()
    clean = {small} if sure else {0, 1}
    return [0 if c in poisoned else 1 if c in clean else None for c in clusters]


def test_where_poison_is_found_the_other_cluster_is_kept():
    """In ART's silhouette rule the rows of the other cluster are in no list, and get no verdict."""
    features, labels, small = two_groups(180, 20)
    found = judge(features, labels)
    verdict = art_silhouette_verdict(small[labels == 0].astype(int), 1, sure=True)
    assert verdict.count(None) == 180
    assert not found.dropped[(labels == 0) & ~small].any()


def three_groups():
    """Return two classes; a tenth of class 0 came from class 1, to which it still lies nearer."""
    rng = stream(0, "test/strayed")
    features = rng.normal(size=(400, 12))
    labels = np.array([0] * 200 + [1] * 200)
    features[180:, 0] += 20  # class 1, and 20 rows that were relabelled from it
    features[180:200, 1] += 8
    return features, labels


def test_the_distance_rule_compares_classes_in_one_space():
    """ART centres and reduces each class on its own, so that all medians lie about the origin."""
    features, labels = three_groups()
    found = judge(features, labels, rule="distance")
    assert np.flatnonzero(found.dropped).tolist() == list(range(180, 200))
    assert (found.suspicion[180:200] > 0.5).all()

    far = features.copy()
    far[labels == 1] += 500  # now no row of class 0 is nearer to class 1
    assert not judge(far, labels, rule="distance").dropped.any()
    reduced = [judge(each, labels, rule="smaller") for each in (features, far)]
    # what ART sees of a class is the same in both cases, so its verdict is
    np.testing.assert_allclose(reduced[0].suspicion, reduced[1].suspicion, atol=1e-9)


def test_the_distance_rule_may_accuse_the_larger_cluster():
    """The median of a class lies off its larger cluster; another class may lie right on it."""
    rng = stream(0, "test/larger")
    features = rng.normal(size=(400, 1))
    features[110:200] += 10
    features[200:] *= 0.1
    found = judge(features, [0] * 200 + [1] * 200, rule="distance")
    assert found.dropped[:110].mean() > 0.99
    assert not found.dropped[110:].any()
    assert found.suspicion[found.dropped].min() > 0.5 >= found.suspicion[~found.dropped].max()


def test_a_single_class_has_no_other_to_be_near_to():
    features, labels, small = two_groups(180, 20)
    mine = labels == 0
    assert not judge(features[mine], labels[mine], rule="distance").dropped.any()
    found = judge(features[mine], labels[mine])
    assert (found.dropped == small[mine]).all()


def test_dropped_rows_rank_above_all_others():
    features, labels, small = two_groups(360, 40)
    clean = (labels == 0) | ~small
    for rule in ("smaller", "relative-size", "silhouette"):
        found = judge(features[clean], labels[clean], rule=rule)
        assert found.suspicion[found.dropped].min() > 0.5
        assert found.suspicion[~found.dropped].max() <= 0.5


def test_equal_seeds_and_mixed_rows_give_equal_verdicts():
    features, labels, _ = two_groups(180, 20)
    first, second = judge(features, labels, seed=3), judge(features, labels, seed=3)
    np.testing.assert_array_equal(first.suspicion, second.suspicion)
    order = stream(0, "test/order").permutation(len(labels))
    mixed = judge(features[order], labels[order], seed=3)
    np.testing.assert_array_equal(mixed.dropped, first.dropped[order])
    np.testing.assert_allclose(mixed.suspicion, first.suspicion[order], atol=1e-9)


def test_classes_that_cannot_be_split_are_kept():
    rng = stream(0, "test/odd-classes")
    features = rng.normal(size=(90, 40))
    labels = np.array([0] * (FEWEST - 1) + [1] * 1 + [2] * 60 + [5] * 20)
    features[labels == 5] = 0.1
    for rule in ("smaller", "relative-size", "silhouette", "distance"):
        found = judge(features[: len(labels)], labels, rule=rule)
        assert np.isfinite(found.suspicion).all()
        assert not found.dropped[labels != 2].any()
        assert (found.suspicion[labels != 2] == -1).all()
        split = {name: about["split"] for name, about in found.facts["by_class"].items()}
        assert split == {"0": False, "1": False, "2": True, "5": False}
    assert judge(np.zeros((0, 1)), np.zeros(0, int)).dropped.shape == (0,)


def test_fewer_rows_than_dimensions():
    """ART asks for more components than rows then, and fails."""
    features = stream(0, "test/few").normal(size=(12, 64))
    found = judge(features, [0] * 12, rule="smaller", dims=50)
    assert 0 < found.dropped.sum() <= 6


def test_too_many_rows_are_refused_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(clustering, "MOST_ROWS", 20)
    context = context_of(LabelledTexts(("a",) * 21, (0,) * 21), None, None)
    with pytest.raises(ResourceLimit) as caught:
        ActivationClustering(ActivationClusteringOptions()).keep(context)
    assert caught.value.code == "CLUSTER-ROWS"


def test_texts_through_a_model(load_tiny, odd_texts, reviews):
    model, tokenizer = load_tiny("bert")
    suspect = LabelledTexts(odd_texts.texts + reviews.train.texts[:30], (0,) * 12 + (1,) * 30)
    filters = [ActivationClustering(ActivationClusteringOptions()) for _ in range(2)]
    one, two = (each.keep(context_of(suspect, model, tokenizer)) for each in filters)
    np.testing.assert_array_equal(one.suspicion, two.suspicion)
    assert one.suspicion.shape == (42,)
    nothing = filters[0].keep(context_of(LabelledTexts((), ()), model, tokenizer))
    assert nothing.suspicion.shape == nothing.dropped.shape == (0,)
