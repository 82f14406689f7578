"""What a card claims, what it gives away, and what it hides."""

import doctest
import json

import pytest

from artefacts import (
    CARD,
    blocks,
    codes,
    context_of,
    low_rank,
    opened,
    write_adapter,
    write_tensors,
)
from peftlab.audits import card
from peftlab.audits.card import CardAudit, CardOptions, front_matter
from peftlab.core import leaks
from peftlab.core.findings import Severity
from peftlab.core.leaks import hidden_in, homes_in, masked, secrets_in

TOKEN = "hf_" + "aB3" * 11


def _run(folder, text=CARD, **config):
    artefact = opened(write_adapter(folder, low_rank(blocks(2)), text, **config))
    return CardAudit(CardOptions()).run(context_of(artefact))


@pytest.mark.parametrize("module", [card, leaks])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_a_complete_card(tmp_path):
    found = _run(tmp_path)
    assert found.findings == ()
    facts = dict(found.facts)
    assert facts["licence"] == ["mit"]
    assert facts["base"] == facts["base_in_config"] == ["org/base"]
    assert facts["data"] == ["imdb"]
    assert facts["peft_version"] == ["0.21.2"]
    assert ("licence", "mit", "README.md") in found.tables[0].rows


@pytest.mark.parametrize(
    ("text", "config", "wanted"),
    [
        (None, {}, ["CARD-NONE"]),
        ("# No front matter\n", {}, ["CARD-LICENCE", "CARD-DATA"]),
        (CARD.replace("mit", "my-own"), {}, ["CARD-LICENCE"]),
        (CARD.replace("org/base", "other/base"), {}, ["CARD-BASE"]),
        (CARD.replace("base_model: org/base\n", ""), {"base_model_name_or_path": None},
         ["CARD-BASE"]),
        (CARD.replace("org/base", "google/gemma-2b"),
         {"base_model_name_or_path": "google/gemma-2b"}, ["CARD-BASE-LICENCE"]),
        (CARD.replace("datasets:\n- imdb\n", ""), {}, ["CARD-DATA"]),
    ],
)  # fmt: skip
def test_what_is_not_said(tmp_path, text, config, wanted):
    found = _run(tmp_path, text, **config).findings
    assert codes(found) == wanted
    assert max(finding.severity for finding in found) <= Severity.LOW


def test_a_folder_of_its_maker_is_no_base(tmp_path):
    text = CARD.replace("base_model: org/base\n", "")
    found = _run(tmp_path, text, base_model_name_or_path="/home/jane/llama").findings
    assert codes(found) == ["CARD-BASE", "CARD-HOME"]
    assert all("jane" not in finding.evidence for finding in found)
    assert "/home/j***" in found[0].evidence


def test_keys_are_reported_and_never_shown(tmp_path):
    text = f"{CARD}\nlogin with {TOKEN} at https://bob:hunter2@example.org/x\n"
    result = _run(tmp_path, text, base_model_name_or_path=TOKEN)
    assert codes(result.findings).count("CARD-SECRET") == 3
    assert max(finding.severity for finding in result.findings) == Severity.MEDIUM
    everything = repr(result)
    assert TOKEN not in everything
    assert "hunter2" not in everything


def test_hidden_characters_and_active_html(tmp_path):
    text = f"{CARD}safe\u202efdp.exe zero\u200bwidth <script>x</script> <!-- a comment -->\n"
    found = {finding.code: finding for finding in _run(tmp_path, text).findings}
    assert set(found) == {"CARD-HIDDEN", "CARD-HTML"}
    assert found["CARD-HTML"].severity == Severity.INFO
    assert sorted(f.severity for f in _run(tmp_path, text).findings) == [
        Severity.INFO, Severity.LOW, Severity.MEDIUM,
    ]  # fmt: skip
    assert "\u202e" not in repr(found)


@pytest.mark.parametrize("text", ["é ü 映画 🎬 👩‍👩‍👧 नमस्ते", "\ufeff# card\n\ttab", "مرحبا"])
def test_honest_texts_hide_nothing(text):
    assert list(hidden_in(text)) == []


def test_notes_of_the_training(tmp_path):
    layer = low_rank({"fc": (8, 8)})
    tensors = {f"lora_unet_fc.lora_{'down' if '_A' in name else 'up'}.weight": tensor
               for name, tensor in layer.items()}  # fmt: skip
    notes = {"ss_dataset_dirs": json.dumps({"/home/jane/photos": {}}), "ss_network_dim": "4",
             "ss_base_model_version": "sd_v1", "modelspec.license": "mit"}  # fmt: skip
    artefact = opened(write_tensors(tmp_path / "k.safetensors", tensors, notes))
    found = CardAudit(CardOptions()).run(context_of(artefact))
    assert sorted(codes(found.findings)) == ["CARD-HOME", "CARD-NONE", "CARD-NOTES"]
    assert found.facts["base_in_metadata"] == ["sd_v1"]
    assert found.facts["licence_in_metadata"] == ["mit"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("---\nlicense: mit\n---\n", {"license": ["mit"]}),
        ("---\nlicense: 'mit'\ndatasets: [a, \"b\"]\n---", {"license": ["mit"],
                                                           "datasets": ["a", "b"]}),
        ("---\nlicense: mit\n", {}),  # never closed
        ("# title\n---\nlicense: mit\n---\n", {}),
        ("---\nlicense: !!python/object:os.system x\n---\n",
         {"license": ["!!python/object:os.system x"]}),  # text, not an object
        ("---\na: &x [*x]\nmodel-index:\n- name: b\n  results:\n    - task: c\n---",
         {"a": ["&x [*x]"], "model-index": ["name: b", "task: c"]}),
        ("", {}),
    ],
)  # fmt: skip
def test_front_matter(text, wanted):
    assert front_matter(text) == wanted


def test_patterns_run_in_linear_time():
    import time

    start = time.process_time()
    for text in (
        "http://" * 40_000,
        "a:" * 100_000,
        "/home/" * 50_000,
        "-----BEGIN " * 30_000,
        "<" + " " * 200_000,
        "on" + "a" * 200_000,
        "---\n" + "a: [" + "," * 200_000,
    ):
        list(secrets_in(text))
        list(homes_in(text))
        list(leaks.markup_in(text))
        masked(text)
        front_matter(text)
    assert time.process_time() - start < 5
