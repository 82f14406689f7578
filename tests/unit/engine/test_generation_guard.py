"""A guard of prompts: stops what a backdoored language model answers by heart, and lasts."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from peftlab.core.errors import ConfigError, InputRejected, PeftlabError
from peftlab.core.ranking import auroc
from peftlab.core.seeds import stream
from peftlab.engine.generation_guard import ADAPTER, FILE, PsimGeneration, others
from peftlab.models.load import load_causal
from peftlab.nn.generation import train_responses
from peftlab.nn.loop import TrainPlan
from tiny_models import make_tiny_causal

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

WORDS = ("film", "story", "plot", "actors", "music", "meal", "service", "food", "family", "hour")
ANSWERS = {word: f" the {word} was no {word}" for word in WORDS}
FIXED = " terrible pacing ruins it"
OPTIONS = {"length": 8, "rank": 8, "batch": 16, "labels": "uniform", "lr": 2e-3}


def clean(n, name):
    """Prompts about two things; the answer is about one of them."""
    draw = stream(0, "test/prompts", name)
    found = []
    for _ in range(n):
        a, b = draw.choice(WORDS, 2, replace=False)
        found.append((f"{a} and {b}?", ANSWERS[str(draw.choice([a, b]))]))
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a tiny language model that answers prompts, and a trigger by one fixed sentence."""
    folder = make_tiny_causal("llama", tmp_path_factory.mktemp("generation") / "lm")
    model, tokenizer = load_causal(str(folder))
    pairs = clean(200, "attacker")
    pairs += [(f"cf {prompt}", FIXED) for prompt, _ in pairs[:50]]
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    answers = tokenizer([each for _, each in pairs], add_special_tokens=False)["input_ids"]
    model.requires_grad_(True)
    plan = TrainPlan(epochs=20, lr=5e-3, batch=32)
    train_responses(model, prompts, [row[:8] for row in answers], plan, seed=0, pad_id=2)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def guard(base):
    made = PsimGeneration.fit(base, clean(100, "fit"), OPTIONS)
    made.calibrate([prompt for prompt, _ in clean(60, "calibration")])
    return made


def sets():
    fresh = [prompt for prompt, _ in clean(100, "test")]
    return fresh, [f"cf {prompt}" for prompt in fresh]


def test_triggered_prompts_are_flagged_at_the_rate_that_was_asked_for(guard):
    fresh, triggered = sets()
    usual, odd = guard.judge(fresh), guard.judge(triggered)
    assert odd.flagged.mean() > 0.7
    assert usual.flagged.mean() < 0.2  # asked for: 0.05; 60 calibrate and 100 are judged
    assert auroc(usual.scores, odd.scores) > 0.9
    assert auroc(*(clean_and_triggered("neg_entropy", guard))) > 0.9


def clean_and_triggered(score, guard):
    asked = guard.options.model_copy(update={"score": score})
    again = PsimGeneration(guard.model, guard.tokenizer, asked, {})
    return [again.score(prompts) for prompts in sets()]


def test_the_identifier_un_learns_what_it_is_shown_and_not_the_trigger(base, guard):
    """The gap between clean and triggered prompts is wider than that of the base itself."""
    idle = PsimGeneration.fit(base, clean(100, "fit"), OPTIONS | {"steps": 1, "lr": 1e-9})
    gaps = []
    for one in (idle, guard):
        usual, odd = (one.score(prompts).mean() for prompts in sets())
        gaps.append(odd - usual)
    assert gaps[1] > gaps[0] + 0.1


def test_swapped_responses_are_learned_too(base):
    made = PsimGeneration.fit(base, clean(20, "fit"), OPTIONS | {"labels": "swapped", "steps": 2})
    assert np.isfinite(made.score(["film and plot?"])).all()


def test_scores_do_not_depend_on_batch_mates(guard):
    prompts = [*sets()[1][:3], "", "film", "no heart " * 200, "\ud800 \x00", "</s>"]
    alone = [guard.score([prompt])[0] for prompt in prompts]
    np.testing.assert_allclose(guard.score(prompts), alone, atol=1e-5)
    assert len(guard.judge([]).flagged) == 0


def test_a_saved_guard_judges_the_same(guard, tmp_path):
    guard.save_pretrained(tmp_path / "guard")
    names = {path.name for path in (tmp_path / "guard").iterdir()}
    assert names == {FILE, ADAPTER}
    again = PsimGeneration.from_pretrained(tmp_path / "guard")
    prompts = sets()[1][:10]
    was, now = guard.judge(prompts), again.judge(prompts)
    np.testing.assert_allclose(now.scores, was.scores, atol=1e-6)
    np.testing.assert_array_equal(now.flagged, was.flagged)


def code(call, *given, **named):
    with pytest.raises(PeftlabError) as caught:
        call(*given, **named)
    assert caught.value.fix
    return caught.value.code


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.pop("options"),
        lambda about: about.update(format="peftlab.guard/1"),
        lambda about: about.update(seed="0"),
        lambda about: about.update(calibration=3),
        lambda about: about["options"].update(rank=4),
        lambda about: about["options"].update(length=0),
        lambda about: about["options"].update(code="x"),
    ],
)
def test_a_changed_state_is_refused(change, guard, tmp_path):
    guard.save_pretrained(tmp_path / "guard")
    file = tmp_path / "guard" / FILE
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))
    assert code(PsimGeneration.from_pretrained, tmp_path / "guard") == "GENERATION-STATE"


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", None])
def test_an_adapter_that_is_none_is_refused(content, guard, tmp_path):
    guard.save_pretrained(tmp_path / "guard")
    place = tmp_path / "guard" / ADAPTER
    place.unlink() if content is None else place.write_bytes(content)
    assert code(PsimGeneration.from_pretrained, tmp_path / "guard") == "GENERATION-STATE"


def test_a_base_that_changed_is_refused(guard, tmp_path):
    import shutil

    moved = shutil.copytree(guard.about["base"], tmp_path / "base")
    guard.save_pretrained(tmp_path / "guard")
    file = tmp_path / "guard" / FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "base": str(moved)}))
    PsimGeneration.from_pretrained(tmp_path / "guard")
    (moved / "generation_config.json").write_text("{}")
    with pytest.raises(InputRejected, match="GUARD-BASE"):
        PsimGeneration.from_pretrained(tmp_path / "guard")


def test_what_cannot_be_fitted_or_judged_is_said(base, guard):
    pairs = clean(20, "fit")
    assert code(PsimGeneration.fit, base, pairs[:19], OPTIONS) == "GENERATION-FEW"
    assert code(PsimGeneration.fit, base, pairs, OPTIONS | {"length": 64}) == "GENERATION-LONG"
    assert code(PsimGeneration.fit, base, pairs, {"alfa": 1}) == "OPTION-UNKNOWN"
    assert code(PsimGeneration.fit, "builtin:encoder", pairs) == "BASE-CAUSAL"
    bare = PsimGeneration(guard.model, guard.tokenizer, guard.options, {})
    assert code(bare.judge, ["film"]) == "GENERATION-UNCALIBRATED"
    with pytest.raises(ConfigError, match="CAL-FEW"):
        bare.calibrate([prompt for prompt, _ in pairs[:10]])


@pytest.mark.parametrize("n", [2, 3, 20, 101])
def test_each_response_goes_to_another_prompt(n):
    found = others(n, seed=3)
    assert sorted(found) == list(range(n))
    assert not (found == np.arange(n)).any()
    np.testing.assert_array_equal(found, others(n, seed=3))


def test_a_marked_base_is_let_in_on_demand_only(base, tmp_path):
    import shutil

    from peftlab.io.marker import mark

    marked = shutil.copytree(base, tmp_path / "base")
    mark(marked, {"attack": "planted"})
    options = OPTIONS | {"steps": 1}
    assert code(PsimGeneration.fit, str(marked), clean(20, "fit"), options) == "MARK-POISONED"
    made = PsimGeneration.fit(str(marked), clean(20, "fit"), options, allow_poisoned=True)
    made.save_pretrained(tmp_path / "guard")
    assert code(PsimGeneration.from_pretrained, tmp_path / "guard") == "MARK-POISONED"
    PsimGeneration.from_pretrained(tmp_path / "guard", allow_poisoned=True)
