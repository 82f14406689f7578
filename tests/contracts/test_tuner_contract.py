"""Every tuner: seeded start, untouched base, and folders that the stock libraries load."""

import json
import subprocess
import sys

import numpy as np
import pytest
from contract_tools import assert_plain_files, enrolled, fingerprint, well_behaved

from peftlab.core import registry

every = pytest.mark.parametrize("entry", enrolled("tuner"))

STOCK = """
import json, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "peftlab":
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import torch
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
base, text, found = sys.argv[1], sys.argv[2], {}
for folder in map(Path, sys.argv[3:]):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if (folder / "adapter_config.json").is_file():
        model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, folder)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found[folder.name] = model.eval()(**tokenizer(text, return_tensors="pt")).logits[0].tolist()
print(json.dumps(found))
"""


@every
def test_the_seed_decides_the_start(entry, load_tiny):
    first, second = (entry.build().wrap(load_tiny()[0], 1) for _ in range(2))
    assert fingerprint(first) == fingerprint(second)
    if entry.name not in {"full", "example-ia3"}:  # nothing is drawn in these
        assert fingerprint(first) != fingerprint(entry.build().wrap(load_tiny()[0], 2))


@every
def test_options_that_the_training_step_asks_for(entry):
    options = entry.build().options
    assert options.epochs > 0
    assert options.batch > 0
    assert options.lr is None or options.lr > 0
    assert options.head == "inherit"


@every
def test_only_the_adapter_and_head_train(entry, load_tiny):
    from peftlab.nn.loop import TrainPlan, train

    model, _ = load_tiny()
    before = fingerprint(model)
    wrapped = entry.build().wrap(model, 0)
    frozen = {name for name, p in wrapped.named_parameters() if not p.requires_grad}
    start = fingerprint(wrapped)
    with well_behaved():
        train(
            wrapped, [[5, 6, 7], [8, 9, 10, 11]], np.eye(2),
            TrainPlan(steps=3, lr=1e-2, batch=2, precision="fp32"), seed=0, pad_id=0,
        )  # fmt: skip
    after = fingerprint(wrapped)
    assert all(start[name] == after[name] for name in frozen)
    assert any(start[name] != after[name] for name in after)
    if entry.name != "full":
        assert len(frozen) >= len(before) - 2  # all but the head


@every
@pytest.mark.parametrize("head", ["inherit", "reinit", "freeze"])
def test_the_head_does_as_asked(entry, head, load_tiny):
    model, _ = load_tiny()
    before = model.classifier.weight.detach().clone()
    wrapped = entry.build(head=head).wrap(model, 7)
    heads = {
        name: p for name, p in wrapped.named_parameters()
        if name.endswith("classifier.weight") or "modules_to_save.default.weight" in name
    }  # fmt: skip
    assert any(p.requires_grad for p in heads.values()) == (head != "freeze")
    assert all(bool((p == before).all()) == (head != "reinit") for p in heads.values())


@every
def test_wrapping_has_no_side_effects(entry, load_tiny):
    model, _ = load_tiny()
    entry.build().wrap(load_tiny()[0], 0)  # what is imported on first use is not at stake
    with well_behaved():
        entry.build().wrap(model, 0)


@pytest.fixture(scope="module")
def tuned(tiny, reviews, tmp_path_factory):
    """Return folders that ``tune`` wrote, one per tuner, by name."""
    from peftlab.engine.steps import tune

    place = tmp_path_factory.mktemp("tuned")
    patch = pytest.MonkeyPatch()
    for parameter in enrolled("tuner"):
        entry = parameter.values[0]
        patch.setitem(registry._entries, (entry.kind, entry.name), entry)
        options = {"epochs": 0.5, "lr": 1e-2}
        tune(str(tiny("bert")), reviews, entry.name, options, place / entry.name, seed=0)
    patch.undo()
    return {path.name: path for path in sorted(place.iterdir())}


def test_folders_hold_tensors_and_text_only(tuned):
    for folder in tuned.values():
        assert_plain_files(folder)


def test_folders_load_in_stock_libraries_without_us(tuned, tiny):
    from peftlab.engine.steps import predict_folder

    text = "a lovely film , we would watch it again"
    arguments = [str(tiny("bert")), text, *map(str, tuned.values())]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOCK, *arguments],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs.keys() == tuned.keys()
    for name, folder in tuned.items():
        ours = predict_folder(folder, [text], n_classes=2)[0]
        np.testing.assert_allclose(theirs[name], ours, atol=1e-6, err_msg=name)
