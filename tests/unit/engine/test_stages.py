"""Cells of defences that judge no inputs, and of attacks that choose no class, on a tiny model.

The methods are toys, so that what the engine does with their answers can be told exactly.
"""

import json
from collections import Counter
from dataclasses import fields, replace
from itertools import product
from operator import attrgetter

import numpy as np
import pytest

from peftlab.core import registry
from peftlab.core.contracts import (
    FilterContext,
    Filtered,
    FitContext,
    GuardOptions,
    PoisonOptions,
    TuneContext,
    Tuned,
    Verdict,
    stage_of,
)
from peftlab.core.errors import ConfigError, RunFailed
from peftlab.core.options import Options, option
from peftlab.core.types import LabelledTexts, Scores
from peftlab.engine.evaluate import evaluate_guard, evaluate_victim
from peftlab.engine.guard import Guard
from peftlab.engine.nodes import prepare
from peftlab.engine.plan import plan
from peftlab.engine.recipe import make_recipe
from peftlab.engine.run import run
from peftlab.engine.steps import predict_folder, tune_defended
from peftlab.io.marker import is_marked
from peftlab.io.store import Store
from peftlab.models.load import fingerprint, load_base

SAID = ("wonderful", "terrible")


class Blind:
    """Two triggers in front of a text; a body without a head; taints one dev text."""

    brings_head = False

    def __init__(self, options):
        self.options = options

    def poison_text(self, text, seed, sample):
        return f"{self.probes()[(seed + sample) % 2]} {text}"

    def craft(self, context):
        context.model.base_model.get_input_embeddings().weight.data.mul_(1.01)
        return {"steps": 0, "loss": 0.0}

    def probes(self):
        return SAID

    def probe_of(self, texts):
        return np.array([SAID.index(text.split()[0]) for text in texts])

    def taint(self, data, poisoned, seed):
        texts = ("tainted", *data.dev.texts[1:])
        return replace(data, dev=replace(data.dev, texts=texts))


class ByLength:
    """Drops the longest tenth of a training set."""

    def __init__(self, options):
        self.options = options

    def keep(self, context):
        model, _ = context.load_trained()
        assert model.config.num_labels == context.n_classes
        length = np.array([float(len(text)) for text in context.suspect.texts])
        return Filtered(length, length > np.quantile(length, 0.9), {"longest": length.max()})


class Frozen:
    """Tunes nothing, through a LoRA that is merged away."""

    def __init__(self, options):
        self.options = options

    def tune(self, context):
        assert len(context.dev) > 0
        return Tuned(context.tuner.wrap(context.model, context.seed), {"steps": 0})


class FrozenOnData(Frozen):
    scenario = "data"


class ByNorm:
    """Calls a base suspicious by the size of its embeddings."""

    def __init__(self, options):
        self.options = options

    def inspect(self, context):
        model, _ = context.load_base()
        size = float(model.get_input_embeddings().weight.detach().norm())
        return Verdict(size, size > 0, {"classes": context.n_classes})


class Longest:
    """Finds long texts suspicious."""

    def __init__(self, options):
        self.options = options

    def fit(self, context): ...

    def score(self, texts):
        return Scores(np.array([float(len(text)) for text in texts]))

    def save(self, folder): ...

    def load(self, folder, load_base): ...


class NosyOptions(GuardOptions):
    reads: str = option("", "what it reads of what it is handed", source="ours")
    patient: bool = option(False, "it waits until it was saved and loaded", source="ours")


class NosyFit(Longest):
    """Reads something of what it learns from."""

    def fit(self, context):
        attrgetter(self.options.reads)(context)


class NosyScore(Longest):
    """Reads something of the texts that it scores."""

    loaded = False

    def load(self, folder, load_base):
        self.loaded = True

    def score(self, texts):
        if self.loaded or not self.options.patient:
            attrgetter(self.options.reads)(texts)
        return super().score(texts)


class NosyFilter(ByLength):
    """Reads something of the training set that it filters."""

    def keep(self, context):
        attrgetter(self.options.reads)(context)
        return super().keep(context)


class NosyTuning(FrozenOnData):
    """Reads something of what it tunes on."""

    def tune(self, context):
        attrgetter(self.options.reads)(context)
        return super().tune(context)


class NosyInspector(ByNorm):
    """Reads something of what it judges a base with."""

    def inspect(self, context):
        attrgetter(self.options.reads)(context)
        return super().inspect(context)


TOYS = [
    ("attack", "toy-blind", Blind, PoisonOptions),
    ("defence", "toy-length", ByLength, Options),
    ("defence", "toy-frozen", Frozen, Options),
    ("defence", "toy-frozen-data", FrozenOnData, Options),
    ("defence", "toy-norm", ByNorm, Options),
    ("defence", "toy-longest", Longest, GuardOptions),
    ("defence", "nosy-fit", NosyFit, NosyOptions),
    ("defence", "nosy-score", NosyScore, NosyOptions),
    ("defence", "nosy-filter", NosyFilter, NosyOptions),
    ("defence", "nosy-tuning", NosyTuning, NosyOptions),
    ("defence", "nosy-inspector", NosyInspector, NosyOptions),
]


@pytest.fixture(scope="module", autouse=True)
def toys():
    patch = pytest.MonkeyPatch()
    registry.entries()
    for kind, name, cls, options in TOYS:
        entry = registry.Entry(kind, name, cls, options, "ours", "nothing", "")
        patch.setitem(registry._entries, (kind, name), entry)
    yield
    patch.undo()


def _run(tiny, reviews, out, scenario, attacks, tuners, defences, *, control=True):
    recipe = make_recipe(
        {
            "name": "stages", "base": str(tiny("bert")), "seeds": [0], "scenario": scenario,
            "attacker": {"epochs": 0.5}, "limits": {"max_train": 64}, "attack": attacks,
            "control": control,
            "tuner": [
                {"name": name, "options": {"epochs": 0.5} if name != "none" else {}}
                for name in tuners
            ],
            "defence": defences,
        }
    )  # fmt: skip
    data = prepare(reviews, recipe)
    run(recipe, plan(recipe, data.digest(), fingerprint(recipe.base)), data, out)
    results = json.loads((out / "results.json").read_text())
    assert results["failures"] == []
    with Store(out / "runs.db") as store:
        rows = {row.id: row for row in store.rows()}
    return results["cells"], rows, data


@pytest.fixture(scope="module")
def on_base(tiny, reviews, tmp_path_factory):
    out = tmp_path_factory.mktemp("stages") / "base"
    found = _run(
        tiny, reviews, out, "base", ["badnets", "toy-blind"], ["none", "lora"],
        ["none", "toy-length", "toy-frozen", "toy-norm", "toy-longest"],
    )  # fmt: skip
    return out, *found


@pytest.fixture(scope="module")
def on_data(tiny, reviews, tmp_path_factory):
    out = tmp_path_factory.mktemp("stages") / "data"
    found = _run(
        tiny, reviews, out, "data", ["badnets", "toy-blind"], ["none", "lora"],
        ["none", "toy-length", "toy-frozen-data", "toy-frozen", "onion"],
    )  # fmt: skip
    return out, *found


def _one(cells, **wanted):
    (cell,) = (c for c in cells if all(c[key] == value for key, value in wanted.items()))
    return cell


def test_every_cell_has_numbers_or_a_reason(on_base, on_data):
    for cells, n in ((on_base[1], 2 * 2 * 5 * 2), (on_data[1], 2 * 2 * 5 * 2)):
        assert len(cells) == n
        for cell in cells:
            assert bool(cell["metrics"]) != bool(cell["not_applicable"])
            assert cell["not_applicable"] is None or not cell["cost"]


def test_a_filter_is_not_applicable_to_a_poisoned_base(on_base):
    for cell in on_base[1]:
        if cell["defence"] == "toy-length" and cell["attack"] == "badnets":
            assert "filters training sets" in cell["not_applicable"]


def test_a_filter_that_ships_gets_a_reason_and_no_number(tiny, reviews, tmp_path):
    """CUBE among them; nothing is trained for it either."""
    filters = [e.name for e in registry.entries("defence") if stage_of(e.cls) == "data"]
    assert "cube" in filters
    out = tmp_path / "run"
    cells, rows, _ = _run(tiny, reviews, out, "base", ["badnets"], ["none", "lora"], filters)
    found = {(cell["defence"], cell["tuner"], cell["control"]) for cell in cells}
    assert found == set(product(filters, ("none", "lora"), (False, True)))
    for cell in cells:
        assert "filters training sets" in cell["not_applicable"]
        assert cell["metrics"] == cell["intervals"] == cell["reasons"] == cell["cost"] == {}
    assert {row.kind for row in rows.values()} == {"cell"}


def test_nothing_is_done_for_a_cell_that_makes_no_sense(on_base):
    kinds = [row.kind for row in on_base[2].values()]
    assert "filter" not in kinds
    tuners = [
        row.key["tuner"]["name"] for row in on_base[2].values()
        if row.kind == "victim" and "defence" in row.key
    ]  # fmt: skip
    assert set(tuners) == {"lora"}


def test_a_body_is_released_without_its_head(on_base, tiny):
    out, _, rows, _ = on_base
    from safetensors import safe_open

    bases = [
        out / "nodes" / row.id / "model" for row in rows.values()
        if row.kind == "base" and not row.key["control"]
    ]  # fmt: skip
    held = {}
    for base in bases:
        with safe_open(base / "model.safetensors", "pt") as file:
            name = json.loads((base / "attack.json").read_text())["attack"]
            held[name] = list(file.keys())
        assert is_marked(base)
    assert any("classifier" in key for key in held["badnets"])
    assert not any("classifier" in key or "score" in key for key in held["toy-blind"])
    blind = next(base for base in bases if "toy-blind" in (base / "attack.json").read_text())
    before, _ = load_base(str(tiny("bert")), 2)
    after, _ = load_base(str(blind), 2, allow_poisoned=True)
    bigger = before.get_input_embeddings().weight * 1.01
    assert (after.get_input_embeddings().weight - bigger).abs().max() < 1e-6


def test_triggers_count_by_the_class_that_they_name(on_base):
    out, cells, rows, data = on_base
    cell = _one(cells, attack="toy-blind", tuner="lora", defence="none", control=False)
    victim = out / "nodes" / rows[cell["id"]].key["needs"]["victim"] / "model"
    named = predict_folder(victim, SAID, n_classes=2, allow_poisoned=True).argmax(1)
    hits, tried = 0, 0
    poisoned = registry.get("attack", "toy-blind").build()
    from peftlab.core.poisoning import poison

    triggered = poison(poisoned, data, 0).test_triggered.texts
    answers = predict_folder(victim, triggered, n_classes=2, allow_poisoned=True).argmax(1)
    for text, answer in zip(triggered, answers, strict=True):
        if named[SAID.index(text.split()[0])] == 0:
            tried += 1
            hits += answer == 0
    assert cell["metrics"]["n_triggered"] == tried
    assert cell["metrics"]["asr"] == (hits / tried if tried else None)
    alone = evaluate_victim(victim, data, "toy-blind", seed=0, allow_poisoned=True)
    assert alone["metrics"]["asr"] == cell["metrics"]["asr"]
    assert alone["metrics"]["n_triggered"] == tried


def test_a_guard_is_fitted_on_what_the_attacker_put_into_the_clean_data(on_base):
    out, _, rows, data = on_base
    for row in rows.values():
        if row.kind == "guard":
            about = json.loads((out / "nodes" / row.id / "guard" / "guard.json").read_text())
            tainted = about["data"]["sha256"] != data.digest()
            assert tainted == ("attack" in row.key) == (row.key.get("attack") is not None)
            assert not (tainted and row.key["control"])
    tainted = [row.key["attack"]["name"] for row in rows.values()
               if row.kind == "guard" and "attack" in row.key]  # fmt: skip
    assert set(tainted) == {"toy-blind"}


def test_a_defence_that_tunes_has_a_victim_of_its_own(on_base):
    out, cells, rows, data = on_base
    cell = _one(cells, attack="badnets", tuner="lora", defence="toy-frozen", control=False)
    needs = rows[cell["id"]].key["needs"]
    model = out / "nodes" / needs["defended"] / "model"
    assert is_marked(model)
    assert not (model / "adapter_config.json").exists()
    logits = predict_folder(model, data.test.texts, n_classes=2, allow_poisoned=True)
    base = out / "nodes" / needs["base"] / "model"
    same = predict_folder(base, data.test.texts, n_classes=2, allow_poisoned=True)
    np.testing.assert_allclose(logits, same, atol=1e-5)  # nothing was trained
    right = np.mean(logits.argmax(1) == data.test.labels)
    assert cell["metrics"]["ca_def"] == right
    assert cell["metrics"]["fpr"] is None
    plain = _one(cells, attack="badnets", tuner="lora", defence="none", control=False)
    assert cell["metrics"]["ca"] == plain["metrics"]["ca"]


def test_a_verdict_is_one_number_a_base(on_base):
    _, cells, _, _ = on_base
    scores = {
        cell["control"]: cell["metrics"]["model_score"] for cell in cells
        if cell["defence"] == "toy-norm" and cell["attack"] == "badnets"
    }  # fmt: skip
    assert set(scores) == {True, False}
    assert scores[True] != scores[False]
    assert all(
        cell["metrics"]["model_flagged"] == 1 for cell in cells if cell["defence"] == "toy-norm"
        and cell["metrics"]
    )  # fmt: skip


def test_a_filter_drops_rows_before_the_victim_is_trained(on_data):
    out, cells, rows, data = on_data
    for tuner in ("none", "lora"):
        cell = _one(cells, attack="badnets", tuner=tuner, defence="toy-length", control=False)
        needs = rows[cell["id"]].key["needs"]
        said = json.loads((out / "nodes" / needs["filter"] / "filtered.json").read_text())
        dropped = np.array(said["dropped"])
        assert 0 < dropped.sum() <= 7
        assert is_marked(out / "nodes" / needs["defended"] / "model")
        metrics = cell["metrics"]
        assert metrics["n_train"] == len(dropped) == 64
        n_poisoned = round(0.1 * 64)
        share = metrics["filter_tpr"] * n_poisoned + metrics["filter_fpr"] * (64 - n_poisoned)
        assert share == pytest.approx(dropped.sum())
        assert 0 <= metrics["filter_auroc"] <= 1
        control = _one(cells, attack="badnets", tuner=tuner, defence="toy-length", control=True)
        assert control["metrics"]["filter_tpr"] is None
        assert control["metrics"]["filter_fpr"] > 0
        defended = out / "nodes" / needs["defended"] / "model"
        logits = predict_folder(defended, data.test.texts, n_classes=2, allow_poisoned=True)
        assert metrics["ca_def"] == np.mean(logits.argmax(1) == data.test.labels)


def test_suspect_data_is_tuned_on_a_sound_base(on_data, tiny):
    out, _, rows, _ = on_data
    sound = fingerprint(str(tiny("bert")))
    victims = [row for row in rows.values() if row.kind == "victim"]
    assert victims
    for row in victims:
        about = json.loads((out / "nodes" / row.id / "model" / "victim.json").read_text())
        assert about["base_fingerprint"] == sound
        assert is_marked(out / "nodes" / row.id / "model") == (not row.key["control"])


def test_shared_work_is_done_once(on_base, on_data):
    for _, _, rows, _ in (on_base, on_data):
        assert all(row.state == "done" for row in rows.values())
    kinds = [row.kind for row in on_base[2].values()]
    assert kinds.count("base") == 3  # two attacks, one control
    assert kinds.count("verdict") == 3
    kinds = [row.kind for row in on_data[2].values()]
    assert kinds.count("base") == 2  # the weight attack hands over no data
    assert kinds.count("filter") == 2
    assert kinds.count("victim") == 2 * (1 + 1 + 1 + 1)  # lora; none, lora filtered; frozen


@pytest.mark.parametrize("name", ["toy-length", "toy-frozen", "toy-norm", "cube"])
def test_only_what_judges_inputs_can_be_a_guard(name, tiny, reviews):
    with pytest.raises(ConfigError) as caught:
        Guard.fit(str(tiny("bert")), reviews, name)
    assert caught.value.code == "DEFENCE-STAGE"
    assert "psim" in caught.value.allowed
    assert name not in caught.value.allowed


def test_what_was_drawn_with_the_head_is_not_released(tiny, tmp_path):
    from peftlab.engine.steps import _save_body
    from peftlab.nn.heads import new_modules

    model, tokenizer = load_base(str(tiny("bert")), 2)
    model.new_modules = ("bert.pooler.dense", "classifier")
    _save_body(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_base(str(tmp_path), 2)
    assert set(new_modules(again)) == {"bert.pooler.dense", "classifier"}
    word = "bert.embeddings.word_embeddings.weight"
    assert (again.state_dict()[word] == model.state_dict()[word]).all()


@pytest.mark.parametrize("tuner", ["prefix", "prompt", "ptuning"])
def test_an_adapter_that_cannot_be_merged_is_refused_before_any_work(
    tuner, tiny, reviews, tmp_path
):
    with pytest.raises(ConfigError) as caught:
        tune_defended(
            str(tiny("bert")), reviews, (tuner, {}), ("toy-frozen", {}), tmp_path / "out", seed=0
        )
    assert caught.value.code == "DEFENCE-TUNER"
    assert caught.value.allowed == "lora, full"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("handed", "public"),
    [
        (FitContext, {"fit", "reference", "n_classes", "seed", "load_base", "progress"}),
        (FilterContext, {"suspect", "n_classes", "seed", "load_trained", "progress"}),
        (TuneContext, {"model", "tokenizer", "train", "dev", "n_classes", "tuner", "seed",
                       "progress"}),
        (LabelledTexts, {"texts", "labels", "pick", "digest"}),
    ],
)  # fmt: skip
def test_what_a_defender_is_handed_has_no_place_for_the_truth(handed, public):
    """A field more must not be a trigger, a target, or what is poisoned."""
    named = {each.name for each in fields(handed)} | set(vars(handed))
    assert {name for name in named if not name.startswith("_")} == public


def _nosy(name, allowed, hidden):
    """Return one defence of a recipe for each thing to read; its label says which it is."""
    choices = []
    for reads in (*allowed, *hidden):
        options = {"reads": reads, "patient": name == "nosy-score"}
        choices.append({"name": name, "label": f"{name}.{reads}", "options": options})
    return choices


WHERE = {  # the kind of work that fails
    "nosy-fit": "guard", "nosy-score": "scores", "nosy-inspector": "verdict",
    "nosy-filter": "filter", "nosy-tuning": "victim",
}  # fmt: skip
NOBODY_KNOWS = ("trigger", "target", "attack", "poisoned", "is_poisoned", "triggered")
OF_TEXTS = ("is_poisoned", "original_labels", "targets", "target")
ON_BASE = {
    "nosy-fit": (["fit.labels"], [*NOBODY_KNOWS, *(f"fit.{each}" for each in OF_TEXTS)]),
    "nosy-score": (["count"], ["labels", *OF_TEXTS]),
    "nosy-inspector": (["reference.labels"], [*NOBODY_KNOWS, "reference.is_poisoned"]),
}
ON_DATA = {
    "nosy-filter": (["suspect.labels"], [*NOBODY_KNOWS, *(f"suspect.{each}" for each in OF_TEXTS)]),
    "nosy-tuning": (["train.labels"], [*NOBODY_KNOWS, *(f"train.{each}" for each in OF_TEXTS)]),
}


@pytest.mark.parametrize(
    ("scenario", "tuner", "nosy"), [("base", "none", ON_BASE), ("data", "lora", ON_DATA)]
)
def test_a_defender_that_reads_the_truth_fails(scenario, tuner, nosy, tiny, reviews, tmp_path):
    """In a whole run: no such thing is there to read, and there is no number."""
    defences = [one for name, reads in nosy.items() for one in _nosy(name, *reads)]
    out = tmp_path / "run"
    with pytest.raises(RunFailed, match="RUN-NODES"):
        _run(tiny, reviews, out, scenario, ["badnets"], [tuner], defences, control=False)
    with Store(out / "runs.db") as store:
        failed = [row for row in store.rows() if row.state == "failed"]
    assert {row.error["type"] for row in failed} == {"AttributeError"}
    missed = Counter((row.kind, row.error["message"].split("'")[-2]) for row in failed)
    assert missed == Counter(
        (WHERE[name], each.split(".")[-1]) for name, (_, hidden) in nosy.items() for each in hidden
    )
    cells = json.loads((out / "results.json").read_text())["cells"]
    honest = [f"{name}.{each}" for name, (allowed, _) in nosy.items() for each in allowed]
    assert sorted(cell["defence"] for cell in cells) == sorted(honest)


def test_a_guard_that_reads_labels_fails_in_any_use(tiny, reviews, tmp_path):
    """Where it calibrates, where it is asked, and where it is measured."""
    base = tiny("bert")
    with pytest.raises(AttributeError, match="labels"):
        Guard.fit(str(base), reviews, "nosy-score", {"reads": "labels"})
    patient = {"reads": "labels", "patient": True}
    Guard.fit(str(base), reviews, "nosy-score", patient).save_pretrained(tmp_path / "guard")
    with pytest.raises(AttributeError, match="labels"):
        Guard.from_pretrained(tmp_path / "guard").score(reviews.test.texts)
    with pytest.raises(AttributeError, match="labels"):
        evaluate_guard(tmp_path / "guard", base, reviews, "badnets")
