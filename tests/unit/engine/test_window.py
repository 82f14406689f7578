"""Window experiments: what a look tells, and a run that is killed, goes on and grows."""

import json
from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import load_file

from peftlab.core.errors import InputRejected, RunFailed
from peftlab.core.ranking import auroc
from peftlab.core.seeds import stream
from peftlab.engine.calibrate import Calibration, threshold
from peftlab.engine.window import work
from peftlab.engine.window.bench import make_window_plan, read_window, run_window
from peftlab.engine.window.curves import SCORES, Seen, curves, look_of
from peftlab.engine.window.recipe import make_window_recipe
from peftlab.io.store import Store
from peftlab.nn.evidence import Look

# ------------------------------------------------------------------ curves


def looks(n, seed, shift=0.0, steps=4):
    """Return looks at n texts of both classes, whose own margin is ``shift`` larger at look 2."""
    rng = stream(seed, "tests/looks")
    sign = np.where(np.arange(n) % 2, 1.0, -1.0)
    gap = sign[:, None] * (3.0 + rng.normal(0, 0.5, (n, steps)))
    gap[:, 2] += sign * shift
    return look_of([np.stack([-gap / 2, gap / 2], axis=2)], (sign > 0).astype(np.int64))


@pytest.fixture(scope="module")
def seen():
    return Seen(looks(150, 0), looks(150, 1), looks(200, 2), looks(100, 3, shift=4.0))


def test_the_look_at_which_triggered_texts_differ(seen):
    found = curves(seen, 2)
    for score in SCORES:
        assert len(found[score]["auroc"]) == 4
        assert found[score]["tpr_05"][2] > 0.95
        assert max(found[score]["fpr_05"]) < 0.13
        # one step alone sees it there only; the path does not forget
        assert (found[score]["tpr_05"][3] > 0.8) == (score == "trajectory")
        assert abs(found[score]["auroc"][1] - 0.5) < 0.1
    confident = found["confidence"]
    assert confident["triggered"][2] > confident["clean"][2]


def test_the_gap_by_hand(seen):
    found, k = curves(seen, 2), 2

    def margin(look):
        gaps = look.logits[0][:, k, 1] - look.logits[0][:, k, 0]
        return np.where(look.predicted == 1, gaps, -gaps)

    usual = {c: margin(seen.reference)[seen.reference.predicted == c] for c in (0, 1)}
    clean, triggered, kept = (
        np.array([
            (m - usual[c].mean()) / usual[c].std()
            for m, c in zip(margin(look), look.predicted, strict=True)
        ])
        for look in (seen.clean, seen.triggered, seen.calibration)
    )  # fmt: skip
    cut = threshold(Calibration(kept, 0.05))
    assert found["gap"]["auroc"][k] == pytest.approx(auroc(clean, triggered), abs=1e-6)
    assert found["gap"]["tpr_05"][k] == pytest.approx((triggered > cut).mean())
    assert found["gap"]["fpr_05"][k] == pytest.approx((clean > cut).mean())


def test_no_look_knows_a_later_one_or_the_triggered_texts(seen):
    whole = curves(seen, 2)

    def cut(look):
        return Look([look.logits[0][:, :3]], look.hidden, look.predicted)

    short = curves(Seen(*map(cut, (seen.reference, seen.calibration, seen.clean, seen.triggered))),
                   2)  # fmt: skip
    other = curves(Seen(seen.reference, seen.calibration, seen.clean, looks(30, 9, shift=-2.0)), 2)
    for score in SCORES:
        assert {key: values[:3] for key, values in whole[score].items()} == short[score]
        for key in ("fpr_05", "fpr_01"):
            assert whole[score][key] == other[score][key]


def test_too_few_calibration_texts_give_no_rate(seen):
    found = curves(Seen(seen.reference, looks(30, 1), seen.clean, seen.triggered), 2)
    assert found["gap"]["tpr_01"] == found["gap"]["fpr_01"] == [None] * 4
    assert None not in found["gap"]["tpr_05"]


# ------------------------------------------------------------------ runs


@pytest.fixture(scope="module")
def values(tiny):
    return {
        "name": "toy",
        "seeds": [0],
        "steps": [0, 2, 4],
        "data_options": {"n_train": 60, "n_dev": 60, "n_test": 30, "n_proxy": 0},
        "attacker": {"epochs": 1},
        "base": [{"label": "tiny", "reference": str(tiny("bert"))}],
        "attack": [{"name": "badnets"}, {"name": "badnets", "label": "control",
                                         "options": {"rate": 0.0}}],
        "variant": [{"label": "top", "options": {"family": "lora-top", "rank": 2}},
                    {"label": "all", "options": {"family": "all", "labels": "random"}}],
    }  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("window") / "run"


@pytest.fixture(scope="module")
def whole(values, place):
    """Return the results of a run that nothing interrupted."""
    return run_window(make_window_recipe(values), place)


def done(out):
    """Return how often each node was finished."""
    with Store(out / "runs.db") as store:
        return Counter(node for node, what in store.events() if what == "done")


def content(results):
    return json.dumps(results["units"])


def test_a_run(whole, values):
    assert whole["schema"] == "peftlab.window/1"
    assert [(unit["attack"], unit["variant"], unit["control"]) for unit in whole["units"]] == [
        ("badnets", "top", False), ("badnets", "all", False),
        ("control", "top", True), ("control", "all", True),
    ]  # fmt: skip
    for unit in whole["units"]:
        assert unit["steps"] == values["steps"]
        assert all(len(unit[score]["tpr_05"]) == 3 for score in SCORES)
        assert unit["n_triggered"] > 0
    first, second = whole["units"][:2]  # step 0 is the untouched base, whoever un-learns it
    assert first["gap"]["auroc"][0] == second["gap"]["auroc"][0]
    assert first["gap"] != second["gap"]
    assert len(whole["table"]) == 4 * len(SCORES)
    assert {row["n"] for row in whole["table"]} == {1}
    assert whole["cost"]["base"]["n"] == 2
    assert whole["failures"] == []


def test_all_scores_follow_from_the_looks_that_are_kept(whole, place):
    assert whole["failures"] == []
    files = list(place.glob(f"nodes/*/{work.LOOKS}"))
    assert len(files) == len(whole["units"])
    for file in files:
        kept = load_file(file)
        groups = {name: look_of([x], x[:, 0].argmax(axis=1)) for name, x in kept.items()}
        again = curves(Seen(**groups), 2)
        found = json.loads((file.parent / work.FILE).read_text())
        for name in ("gap", "trajectory"):
            np.testing.assert_allclose(again[name]["auroc"], found[name]["auroc"], atol=0.02)


def test_bases_are_shared_and_stand_before_their_paths(values):
    _, nodes = make_window_plan(make_window_recipe({**values, "seeds": [0, 1]}))
    kinds = [node.kind for node in nodes]
    assert Counter(kinds) == {"base": 4, "path": 8}
    assert kinds[:3] == ["base", "path", "path"]
    assert [node.key["seed"] for node in nodes] == [0] * 6 + [1] * 6  # one of everything first
    assert len({node.id for node in nodes}) == 12
    later = make_window_recipe({**values, "steps": [0, 2, 5]})
    moved = {node.id for node in make_window_plan(later)[1]} & {node.id for node in nodes}
    assert len(moved) == 2  # other looks are other paths of the same bases


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_run_goes_on_and_nothing_is_done_twice(after, values, whole, tmp_path):
    def stop(settled, _total, what):
        if settled == after and not what:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_window(make_window_recipe(values), out, progress=stop)
    assert not (out / "window.json").exists()
    before = done(out)
    assert len(before) == after
    results = run_window(make_window_recipe(values), out)
    assert set(done(out).values()) == {1}
    assert len(done(out)) == 6
    assert content(results) == content(whole)
    files = {path.parent.name for path in out.glob("nodes/*/window.json")}
    assert files == {unit["id"] for unit in results["units"]}


def test_a_run_grows_by_a_variant_and_a_base(values, tiny, tmp_path):
    small = {**values, "attack": ["badnets"], "variant": values["variant"][:1]}
    out = tmp_path / "run"
    first = run_window(make_window_recipe(small), out)
    bases = [*values["base"], {"label": "other", "reference": str(tiny("distilbert"))}]
    grown = run_window(make_window_recipe({**small, "base": bases}), out)
    assert set(done(out).values()) == {1}
    assert [unit["base"] for unit in grown["units"]] == ["tiny", "other"]
    assert content({"units": grown["units"][:1]}) == content(first)
    assert {row["base"] for row in grown["compare"]} == {"other"}
    assert run_window(make_window_recipe(small), out)["units"] == first["units"]  # and shrinks


@pytest.mark.full
def test_two_workers_find_the_same(values, whole, tmp_path):
    some = {**values, "attack": ["badnets"]}
    results = run_window(make_window_recipe(some), tmp_path / "run", workers=2)
    assert results["units"] == whole["units"][:2]


def test_a_failed_path_does_not_take_the_rest_down(values, tmp_path, monkeypatch):
    real = work.read_path

    def fail(how, *rest):
        if how.name == "top":
            raise RunFailed("broken", code="TOY-FAIL")
        return real(how, *rest)

    monkeypatch.setattr(work, "read_path", fail)
    with pytest.raises(RunFailed, match="RUN-NODES"):
        run_window(make_window_recipe({**values, "attack": ["badnets"]}), tmp_path / "run")
    results = read_window(tmp_path / "run")
    assert [unit["variant"] for unit in results["units"]] == ["all"]
    assert [failure["code"] for failure in results["failures"]] == ["TOY-FAIL"]


def test_other_files_are_no_results(tmp_path):
    with pytest.raises(InputRejected, match="RESULTS-MISSING"):
        read_window(tmp_path)
    for text in ("[]", '{"schema": "peftlab.results/1"}'):
        (tmp_path / "window.json").write_text(text)
        with pytest.raises(InputRejected, match="RESULTS-SCHEMA"):
            read_window(tmp_path)


@pytest.mark.parametrize(("fast", "wanted"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_what_the_machine_computes_in(values, monkeypatch, fast, wanted):
    monkeypatch.setattr("peftlab.nn.text.has_fast_bf16", lambda: fast)
    _, nodes = make_window_plan(make_window_recipe(values, ["precision=auto"]))
    assert {node.key["precision"] for node in nodes if node.kind == "path"} == {wanted}
