"""Loading bases and victims: from a folder, a built-in name or the hub, always through the gate."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from safetensors.numpy import load_file, save_file

from peftlab.core.errors import ConfigError, InputRejected
from peftlab.io.marker import mark
from peftlab.models.load import (
    VICTIM_FILE,
    fingerprint,
    lasting,
    load_base,
    load_tokenizer,
    load_victim,
    resolve,
)
from tiny_models import make_tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make_tiny("bert", tmp_path_factory.mktemp("load") / "bert")


@pytest.fixture
def base(shared, tmp_path):
    return shutil.copytree(shared, tmp_path / "base")


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def code_of(call):
    with pytest.raises((InputRejected, ConfigError)) as caught:
        call()
    assert caught.value.fix
    return caught.value.code


def same_weights(a, b):
    import torch

    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


# ------------------------------------------------------------------ where a base is


def test_a_misspelt_built_in_name_is_helped():
    with pytest.raises(ConfigError, match="did you mean encoder") as caught:
        resolve("builtin:encodr")
    assert caught.value.code == "BASE-BUILTIN"


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "~/x", "a/b/c", "x\0y", "n" * 5000, "../..//zzz"]
)
def test_what_is_not_there(name):
    with pytest.raises(InputRejected) as caught:
        resolve(name)
    assert caught.value.code == "BASE-MISSING"
    assert "folder" in caught.value.allowed


def test_a_hub_name_takes_the_same_path(base, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot(name, **options):
        asked.append((name, options["revision"], options["allow_patterns"]))
        return str(base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    model, tokenizer = load_base("org/name@abc123", 2)
    assert same_weights(model, load_base(str(base), 2)[0])
    assert tokenizer("a film")["input_ids"]
    assert fingerprint("org/name") == fingerprint(str(base))
    assert asked[0][:2] == ("org/name", "abc123")
    assert asked[-1][1] is None
    assert not any("bin" in pattern or "py" in pattern for _, _, asks in asked for pattern in asks)

    rewrite(base / "config.json", auto_map={"AutoConfig": "evil.C"})
    assert code_of(lambda: load_base("org/name", 2)) == "BASE-CODE"


def test_the_hub_says_no(monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputRejected, match="ConnectionError") as caught:
        load_base("bert-base-uncased", 2)
    assert caught.value.code == "BASE-MISSING"
    assert "offline" in caught.value.fix


def test_a_folder_is_written_down_as_an_absolute_path(base, monkeypatch):
    monkeypatch.chdir(base.parent)
    assert lasting("base") == str(base)
    assert lasting("builtin:encoder") == "builtin:encoder"
    assert lasting("org/name") == "org/name"


# ------------------------------------------------------------------ what a base computes


def test_the_fingerprint_follows_content_not_place(base, tmp_path):
    before = fingerprint(str(base))
    assert fingerprint(str(shutil.copytree(base, tmp_path / "copy"))) == before
    (base / "README.md").write_text("words change nothing")
    assert fingerprint(str(base)) == before
    rewrite(base / "config.json", hidden_dropout_prob=0.2)
    assert fingerprint(str(base)) != before


def test_untrained_weights_come_from_the_seed():
    first, _ = load_base("builtin:encoder-random", 2, seed=1)
    assert same_weights(first, load_base("builtin:encoder-random", 2, seed=1)[0])
    assert not same_weights(first, load_base("builtin:encoder-random", 2, seed=2)[0])
    assert fingerprint("builtin:encoder-random") != fingerprint("builtin:encoder")


def test_loading_leaves_the_global_generator_alone():
    import torch

    torch.manual_seed(7)
    before = torch.get_rng_state()
    model, _ = load_base("builtin:encoder", 3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.config.num_labels == 3
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32


def test_a_head_of_another_size(base):
    assert code_of(lambda: load_base(str(base), 3)) == "BASE-HEAD"


def test_a_tokenizer_without_padding_gets_one(tmp_path):
    folder = make_tiny("gpt2", tmp_path / "gpt2")
    assert load_tokenizer(folder).pad_token == "<|endoftext|>"
    model, _ = load_base(str(folder), 2)
    assert model.config.pad_token_id is not None


# ------------------------------------------------------------------ what is refused


def test_no_tokenizer(base):
    for path in base.glob("*token*"):
        path.unlink()
    assert code_of(lambda: load_base(str(base), 2)) == "BASE-TOKENIZER"


def test_a_tokenizer_of_another_model(base, tmp_path):
    for path in make_tiny("llama", tmp_path / "llama").glob("tokenizer*"):
        shutil.copy(path, base)
    words = json.loads((base / "tokenizer.json").read_text())
    words["added_tokens"] += [
        {"id": 300 + i, "content": f"<{i}>", "special": False, "normalized": False,
         "single_word": False, "lstrip": False, "rstrip": False}
        for i in range(9)
    ]  # fmt: skip
    (base / "tokenizer.json").write_text(json.dumps(words))
    assert code_of(lambda: load_base(str(base), 2)) == "BASE-TOKENIZER"


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "no-such-family"},
        {"model_type": "resnet"},
        {"model_type": 3},
        {"hidden_size": 64},
        {"hidden_size": "32"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"vocab_size": -1},
        {"hidden_act": "__import__"},
        {"hidden_dropout_prob": "often"},
        {"id2label": 7},
    ],
)
def test_a_config_that_does_not_fit(base, change):
    rewrite(base / "config.json", **change)
    assert code_of(lambda: load_base(str(base), 2)) in {"BASE-LOAD", "BASE-TOKENIZER"}


def test_weights_of_another_model_are_not_filled_in_at_random(base):
    save_file({"w": np.zeros(2, dtype=np.float32)}, base / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    assert code_of(lambda: load_base(str(base), 2)) == "BASE-WEIGHTS"


def test_a_missing_head_and_pooler_are_no_matter(base):
    path = base / "model.safetensors"
    kept = {
        name: tensor
        for name, tensor in load_file(path).items()
        if "pooler" not in name and "classifier" not in name
    }
    save_file(kept, path, metadata={"format": "pt"})
    rewrite(base / "config.json", architectures=["BertForMaskedLM"])
    model, _ = load_base(str(base), 4, seed=3)
    assert same_weights(model, load_base(str(base), 4, seed=3)[0])


def test_a_marked_base_needs_leave(base):
    mark(base, {})
    assert code_of(lambda: load_base(str(base), 2)) == "MARK-POISONED"
    load_base(str(base), 2, allow_poisoned=True)
    (base / "POISONED.json").unlink()
    assert code_of(lambda: load_base(str(base), 2, allow_poisoned=True)) == "MARK-BROKEN"


# ------------------------------------------------------------------ victims


@pytest.fixture
def victim(base, tmp_path):
    from peft import LoraConfig

    from peftlab.models.load import quiet
    from peftlab.nn.adapters import wrap_with

    model, tokenizer = load_base(str(base), 2)
    folder = tmp_path / "victim"
    wrapped = wrap_with(model, LoraConfig(task_type="SEQ_CLS", r=2), head="inherit", seed=0)
    with quiet():
        wrapped.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    note = {
        "base": str(base), "base_fingerprint": fingerprint(str(base)), "n_classes": 2, "seed": 0,
    }  # fmt: skip
    (folder / VICTIM_FILE).write_text(json.dumps(note))
    return folder


def test_a_victim_loads(victim):
    model, _ = load_victim(victim)
    assert not model.training


def test_a_folder_that_is_no_victim(base):
    assert code_of(lambda: load_victim(base)) == "VICTIM-MISSING"


@pytest.mark.parametrize("content", ["[]", "{}", '{"base": 3}', '{"base": "x", "seed": "1"}'])
def test_a_damaged_note(victim, content):
    (victim / VICTIM_FILE).write_text(content)
    assert code_of(lambda: load_victim(victim)) == "VICTIM-NOTE"


def test_a_base_that_changed(victim, base):
    rewrite(base / "config.json", hidden_dropout_prob=0.2)
    assert code_of(lambda: load_victim(victim)) == "VICTIM-BASE"


def test_adapter_tensors_of_another_shape(victim):
    rewrite(victim / "adapter_config.json", r=5)
    assert code_of(lambda: load_victim(victim)) == "VICTIM-LOAD"


def test_adapter_config_with_unknown_modules(victim):
    rewrite(victim / "adapter_config.json", target_modules=["nowhere"])
    assert code_of(lambda: load_victim(victim)) == "VICTIM-LOAD"
