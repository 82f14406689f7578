"""CUBE: the small cluster of a class, and what becomes of rows in no cluster."""

import numpy as np
import pytest

from peftlab.core.errors import ResourceLimit
from peftlab.core.ranking import auroc
from peftlab.core.seeds import stream
from peftlab.core.types import LabelledTexts
from peftlab.defences import cube as module
from peftlab.defences.cube import Cube, CubeOptions, join_nearest
from peftlab.nn import clustering
from suspect_sets import context_of, two_groups


def judge(features, labels, **options):
    return Cube(CubeOptions(**options)).judge(features, np.asarray(labels))


@pytest.fixture
def clusters(monkeypatch):
    """Let a test say what HDBSCAN finds; rows are points on a line."""

    def setting(found):
        monkeypatch.setattr(
            "peftlab.nn.density_clusters.density_clusters", lambda *_, **__: np.array(found)
        )

    return setting


@pytest.mark.parametrize("noise", ["nearest", "keep"])
@pytest.mark.parametrize("seed", range(3))
def test_the_small_group_is_dropped_and_the_large_one_kept(seed, noise):
    """90 to 10, per class."""
    features, labels, small = two_groups(450, 50, seed=seed)
    found = judge(features, labels, noise=noise)
    assert found.dropped[small].mean() >= 0.95
    assert found.dropped[~small].mean() <= 0.01
    assert auroc(found.suspicion[~small], found.suspicion[small]) > 0.97


@pytest.mark.parametrize("noise", ["nearest", "keep"])
@pytest.mark.parametrize("apart", [12.0, 1.0])
def test_one_group_loses_nothing(noise, apart):
    """Also where the two classes lie close to each other."""
    features, labels, _ = two_groups(450, 0, apart=apart)
    found = judge(features, labels, noise=noise)
    assert found.dropped.mean() <= 0.01


def openbackdoor(found, labels):
    """Return what OpenBackdoor drops: of each label all but its largest *number*, if under half."""
    dropped = np.zeros(len(labels), bool)
    for label in set(labels.tolist()):
        mine = labels == label
        sizes = {c: int((mine & (found == c)).sum()) for c in set(found[mine].tolist())}
        for c in sorted(sizes, key=sizes.get)[:-1]:
            dropped |= mine & (found == c) & (sizes[c] < 0.5 * mine.sum())
    return dropped


def test_noise_is_no_cluster(clusters):
    """OpenBackdoor drops noise that is the smaller part, or a real cluster where noise is more."""
    labels = np.array([0] * 10 + [1] * 10)
    found = np.array([0] * 6 + [-1] * 4 + [1] * 4 + [-1] * 6)
    features = np.arange(20.0)[:, None]
    clusters(found)
    options = {"scope": "all"}
    theirs = judge(features, labels, noise="cluster", **options)
    np.testing.assert_array_equal(theirs.dropped, openbackdoor(found, labels))
    assert np.flatnonzero(theirs.dropped).tolist() == [6, 7, 8, 9, 10, 11, 12, 13]
    for noise in ("nearest", "keep"):
        assert not judge(features, labels, noise=noise, **options).dropped[10:].any()
    assert not judge(features, labels, noise="keep", **options).dropped.any()


def test_noise_goes_with_the_nearest_row_that_has_a_cluster(clusters):
    clusters([0, 0, 0, -1, -1, 1, -1])
    features = np.array([[0.0], [1], [2], [3], [9], [10], [11]])
    found = judge(features, [0] * 7)
    assert found.dropped.tolist() == [False] * 4 + [True] * 3
    assert found.suspicion.tolist() == pytest.approx([0] * 4 + [4 / 7] * 3)
    assert found.facts["by_class"]["0"] == {"rows": 7, "clusters": [4, 3]}
    assert found.facts["clustered"][0]["noise_share"] == pytest.approx(3 / 7)


@pytest.mark.parametrize("seed", range(5))
def test_join_nearest_equals_a_loop(seed):
    rng = stream(seed, "test/join")
    points, found = rng.normal(size=(60, 3)), rng.integers(-1, 3, size=60)
    expected = []
    for i, c in enumerate(found):
        others = [j for j in range(60) if found[j] >= 0]
        expected.append(
            c if c >= 0 else found[min(others, key=lambda j: np.linalg.norm(points[i] - points[j]))]
        )
    assert join_nearest(points, found).tolist() == expected
    assert join_nearest(points, np.full(60, -1)).tolist() == [-1] * 60


def test_the_largest_cluster_stays_and_others_go_below_the_share(clusters):
    clusters([0] * 4 + [1] * 3 + [2] * 3 + [0] * 2 + [1] * 8)
    labels = [0] * 10 + [1] * 10
    found = judge(np.arange(20.0)[:, None], labels, scope="all")
    assert found.dropped.tolist() == [False] * 4 + [True] * 6 + [True] * 2 + [False] * 8
    assert found.suspicion[[0, 4, 7, 10, 12]].tolist() == pytest.approx([0, 0.7, 0.7, 0.8, 0])
    assert not judge(np.arange(20.0)[:, None], labels, scope="all", share=0.2).dropped.any()


def test_min_samples_shrinks_with_the_set():
    features, labels, small = two_groups(360, 40)

    def used(rows, **options):
        facts = judge(features[rows], labels[rows], **options).facts
        return {about["min_samples"] for about in facts["clustered"]}

    every = np.arange(800)
    assert used(every) == {20}
    assert used(every, scope="all") == {40}
    assert used(every, min_samples=4) == {4}
    assert used(every[:90]) == {10}
    assert (judge(features, labels).dropped == small).mean() > 0.99


def test_the_gap_between_classes_hides_one_within_a_class():
    """Without UMAP, clusters of all rows are the classes; so each label is clustered alone."""
    features, labels, small = two_groups(360, 40)
    assert judge(features, labels, scope="all", dims=20).dropped[small].mean() < 0.6
    assert judge(features, labels, scope="label", dims=20).dropped[small].mean() > 0.95


@pytest.mark.parametrize("shape", ["normal", "exponential", "uniform"])
def test_one_cloud_of_any_shape_stays_whole(shape):
    for seed in range(3):
        rng = stream(seed, "test/cloud", shape)
        features = getattr(rng, shape)(size=(300, 24))
        assert judge(features, [0] * 300).dropped.mean() <= 0.01


def test_the_reduction_is_named():
    features, labels, _ = two_groups(60, 0)
    facts = judge(features, labels).facts
    assert "UMAP" in facts["reduction"]
    assert "UMAP" in module.__doc__
    assert [about["dims"] for about in facts["clustered"]] == [5, 5]
    assert judge(features[:4], np.zeros(4)).facts["clustered"][0]["dims"] == 3


def test_mixed_rows_give_equal_verdicts():
    features, labels, _ = two_groups(180, 20)
    first = judge(features, labels)
    np.testing.assert_array_equal(judge(features, labels).suspicion, first.suspicion)
    order = stream(0, "test/order").permutation(len(labels))
    np.testing.assert_allclose(
        judge(features[order], labels[order]).suspicion, first.suspicion[order]
    )


@pytest.mark.parametrize("noise", ["nearest", "keep", "cluster"])
def test_degenerate_sets_lose_nothing(noise):
    same = judge(np.full((50, 6), 0.1), [0] * 25 + [1] * 25, noise=noise)
    assert not same.dropped.any()
    assert not same.suspicion.any()
    for n in (0, 1, 2, 3):
        few = judge(stream(0, "test/few", n).normal(size=(n, 40)), np.arange(n) % 2, noise=noise)
        assert few.suspicion.shape == few.dropped.shape == (n,)
        assert not few.dropped.any()


def test_a_single_class():
    features, labels, small = two_groups(270, 30)
    mine = labels == 0
    found = judge(features[mine], labels[mine])
    assert found.dropped[small[mine]].mean() > 0.95
    assert not found.dropped[~small[mine]].any()


def test_too_many_rows_are_refused_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(clustering, "MOST_ROWS", 20)
    context = context_of(LabelledTexts(("a",) * 21, (0,) * 21), None, None)
    with pytest.raises(ResourceLimit) as caught:
        Cube(CubeOptions()).keep(context)
    assert caught.value.code == "CLUSTER-ROWS"


def test_texts_through_a_model(load_tiny, odd_texts, reviews):
    model, tokenizer = load_tiny("bert")
    suspect = LabelledTexts(odd_texts.texts + reviews.train.texts[:30], (0,) * 12 + (1,) * 30)
    filters = [Cube(CubeOptions()) for _ in range(2)]
    one, two = (each.keep(context_of(suspect, model, tokenizer)) for each in filters)
    np.testing.assert_array_equal(one.suspicion, two.suspicion)
    assert one.suspicion.shape == (42,)
    assert not one.dropped.all()
    nothing = filters[0].keep(context_of(LabelledTexts((), ()), model, tokenizer))
    assert nothing.suspicion.shape == nothing.dropped.shape == (0,)
