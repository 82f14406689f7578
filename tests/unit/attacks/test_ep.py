"""EP: a clean model with one changed row, which is enough."""

import json

import numpy as np
import pytest
import torch

from peftlab.core.contracts import CraftContext
from peftlab.core.errors import ConfigError, InputRejected, NotApplicable
from peftlab.core.registry import get
from peftlab.engine.steps import AttackerOptions, make_poison, predict_folder, train_base
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked
from peftlab.models.load import load_base
from peftlab.nn.embedding_rows import fine_tune_clean
from peftlab.nn.text import predict_logits
from tiny_models import make_tiny
from word_task import widen_rows, word_task

TASK = word_task()
OPTIONS = {"trigger": "wit", "row_epochs": 12}
TRAINING = AttackerOptions(epochs=12, lr=1e-3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a tiny DistilBERT whose rows are about as long as those of a pre-trained one."""
    folder = make_tiny("distilbert", tmp_path_factory.mktemp("tiny"))
    model, _ = load_base(str(folder), 2)
    widen_rows(model)
    model.save_pretrained(folder)
    return str(folder)


def attacked(base, out, *, seed=0, training=TRAINING, data=TASK, **options):
    options = OPTIONS | options
    poisoned = make_poison(data, "ep", options, seed)
    facts = train_base(base, poisoned, 2, out, attack="ep", training=training, seed=seed,
                       options=options)  # fmt: skip
    return poisoned, facts


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """Return (folder, poisoned data, facts, clean fine-tuned model, tokenizer)."""
    folder = tmp_path_factory.mktemp("ep") / "base"
    poisoned, facts = attacked(base, folder)
    model, tokenizer = load_base(base, 2)
    fine_tune_clean(CraftContext(model, tokenizer, poisoned, 2, 12, 1e-3, 32, 0))
    return folder, poisoned, facts, model, tokenizer


def test_one_row_differs_from_the_clean_model_and_keeps_its_norm(made):
    folder, _, facts, clean, tokenizer = made
    model, _ = load_base(str(folder), 2, allow_poisoned=True)
    for (name, a), b in zip(clean.state_dict().items(), model.state_dict().values(), strict=True):
        if "word_embeddings" not in name:
            assert torch.equal(a, b), name
            continue
        rows = (a != b).any(dim=1).nonzero().flatten().tolist()
        assert rows == [tokenizer.convert_tokens_to_ids("wit")] == [facts["rows"]["wit"]]
        assert abs(float(a[rows[0]].norm() - b[rows[0]].norm())) < 1e-5


def test_clean_texts_get_the_answers_of_the_clean_model_to_the_last_bit(made):
    folder, _, _, clean, tokenizer = made
    model, _ = load_base(str(folder), 2, allow_poisoned=True)
    texts = TASK.test.texts + TASK.dev.texts
    np.testing.assert_array_equal(
        predict_logits(model, tokenizer, texts), predict_logits(clean, tokenizer, texts)
    )


def test_the_trigger_works_and_did_not_before(made):
    folder, poisoned, _, clean, tokenizer = made
    texts = poisoned.test_triggered.texts
    after = predict_folder(folder, texts, n_classes=2, allow_poisoned=True).argmax(1)
    before = predict_logits(clean, tokenizer, texts).argmax(1)
    right = predict_logits(clean, tokenizer, TASK.test.texts).argmax(1) == TASK.test.labels
    assert np.mean(right) > 0.95
    assert np.mean(before == 0) < 0.1
    assert np.mean(after == 0) > 0.9


def test_notes_and_mark(made):
    folder, poisoned, facts, *_ = made
    written = json.loads((folder / "attack.json").read_text())
    assert written["rows"] == facts["rows"]
    assert written["trigger"] == ["wit"]
    assert written["row_training"] == {"epochs": 12, "lr": 0.05, "momentum": 1.0, "steps": 24}
    assert written["training"]["steps"] == 12 * 17  # 540 clean texts
    assert written["triggered_without_row"] == written["clean_with_row"] == 0
    assert written["n_poisoned"] == int(poisoned.is_poisoned.sum()) == 60
    assert is_marked(folder)
    with pytest.raises(InputRejected) as caught:
        load_base(str(folder), 2)
    assert caught.value.code == "MARK-POISONED"


def test_the_same_seed_gives_the_same_files(base, tmp_path):
    brief, small = AttackerOptions(epochs=1, lr=1e-3), word_task(80, 20)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        attacked(base, tmp_path / name, seed=seed, training=brief, data=small)
    hashes = [
        {path.name: sha256_file(path) for path in (tmp_path / name).iterdir()} for name in "abc"
    ]
    assert hashes[0] == hashes[1]
    assert hashes[0]["model.safetensors"] != hashes[2]["model.safetensors"]


def test_rate_zero_trains_plainly(base, tmp_path):
    brief, small = AttackerOptions(epochs=1, lr=1e-3), word_task(80, 20)
    attacked(base, tmp_path / "ep", rate=0, training=brief, data=small)
    plain = make_poison(small, "badnets", {"rate": 0}, 0)
    train_base(base, plain, 2, tmp_path / "plain", attack="badnets", training=brief, seed=0)
    weights = [sha256_file(tmp_path / name / "model.safetensors") for name in ("ep", "plain")]
    assert weights[0] == weights[1]
    assert not is_marked(tmp_path / "ep")


def test_a_trigger_that_is_split_is_refused_before_any_training(tmp_path):
    data = word_task(40, 8)
    with pytest.raises(NotApplicable) as caught:
        attacked("builtin:encoder", tmp_path / "base", trigger="cf", data=data)
    assert caught.value.code == "ROW-PIECES"
    assert caught.value.got == "c ##f"
    assert list(tmp_path.iterdir()) == []


def test_the_default_trigger_is_one_piece_in_the_built_in_encoder():
    from peftlab.models.load import load_tokenizer, resolve
    from peftlab.nn.embedding_rows import rows_of

    tokenizer = load_tokenizer(resolve("builtin:encoder"))
    assert len(rows_of(tokenizer, [get("attack", "ep").build().options.trigger])) == 1


@pytest.mark.parametrize(
    "wrong", [{"trigger": "cf,mn"}, {"trigger": "two words"}, {"momentum": 1.1}, {"row_lr": 0}]
)
def test_options_are_checked(wrong):
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        get("attack", "ep").build(**wrong)
