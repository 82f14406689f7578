"""Step 3 of the gate: what is opened by its name, and what is recorded and left shut."""

import pytest

from peftlab.core.findings import Severity
from peftlab.io.artefact import Artefact
from peftlab.io.gate.allowed import choose, conclude_choice, conclude_files
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.listing import Entry
from peftlab.io.snapshot import Snapshots

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def chosen(*names):
    return choose([Entry(name, 7) for name in names])


def opened(*names):
    return [entry.name for entry in chosen(*names).opened]


def found(*names):
    return {finding.where: (finding.code, finding.severity) for finding in chosen(*names).findings}


def test_an_adapter_is_opened_with_its_texts():
    names = (*ADAPTER, "README.md", "tokenizer.json", "tokenizer_config.json", "guard.json")
    assert opened(*names) == sorted(names)
    choice = chosen(*names)
    assert (choice.recorded, choice.findings, choice.stop) == ({}, (), False)
    assert choice.not_checked == ()


@pytest.mark.parametrize(
    "names",
    [
        ("config.json", "model.safetensors"),
        ("config.json", *SHARDS, INDEX),
        ("pytorch_lora_weights.safetensors",),
        ("my lora.safetensors", "notes.txt"),
        ("LORA.SAFETENSORS",),
    ],
)
def test_other_weights_that_are_opened(names):
    assert set(opened(*names)) == {name for name in names if not name.endswith(".txt")}
    assert found(*names) == {}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "no .safetensors"),
        (("README.md", "adapter_config.json"), "no .safetensors"),
        (("a.safetensors", "b.safetensors"), "2 safetensors files"),
        ((*SHARDS, "config.json"), "2 safetensors files"),
        (("adapter_config.json", "other.safetensors"), "no library reads"),
        (("sub/adapter_model.safetensors",), "no library reads"),
    ],
)
def test_no_weights_to_audit(names, words):
    choice = chosen(*names)
    assert choice.stop
    finding = next(x for x in choice.findings if x.code == "GATE-WEIGHTS")
    assert finding.severity == Severity.HIGH
    assert words in finding.evidence


@pytest.mark.parametrize(
    "names",
    [
        ("adapter_config.json", "adapter_model.bin"),
        ("config.json", "pytorch_model.bin"),
        ("model.ckpt",),
        ("adapter_config.json", "adapter_model.bin", "other.safetensors"),
        ("config.json", "pytorch_model-00001-of-00002.bin", "other.safetensors"),
    ],
)
def test_a_folder_of_pickles_alone_stops_the_gate(names):
    """Another safetensors file does not help: the library would take the pickle."""
    choice = chosen(*names)
    assert choice.stop
    check = conclude_choice(choice, Limits())
    assert check.status == "stopped"
    assert ("GATE-PICKLE", Severity.HIGH) in found(*names).values()
    assert "convert --sandbox" in check.findings[0].fix
    assert not {name for name in opened(*names) if not name.endswith(".json")}


BESIDE = {
    "adapter_model.bin": ("GATE-PICKLE", Severity.MEDIUM),
    "optimizer.pt": ("GATE-PICKLE", Severity.MEDIUM),
    "checkpoint-5/rng_state.PTH": ("GATE-PICKLE", Severity.MEDIUM),
    "x.npy": ("GATE-PICKLE", Severity.MEDIUM),
    "modeling.py": ("GATE-CODE", Severity.MEDIUM),
    "sub/native.so": ("GATE-CODE", Severity.MEDIUM),
    "page.html": ("GATE-CODE", Severity.MEDIUM),
    "model.h5": ("GATE-CODE", Severity.MEDIUM),
    "other.safetensors": ("GATE-BESIDE", Severity.MEDIUM),
    "checkpoint-5/adapter_model.safetensors": ("GATE-BESIDE", Severity.INFO),
    "model.gguf": ("GATE-BESIDE", Severity.LOW),
    "inner.zip": ("GATE-BESIDE", Severity.LOW),
    "noending": ("GATE-BESIDE", Severity.LOW),
    "sub/chat_template.jinja": ("GATE-BESIDE", Severity.LOW),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_an_adapter_is_recorded_unopened(name):
    choice = chosen(*ADAPTER, name)
    assert found(*ADAPTER, name) == {name: BESIDE[name]}
    assert choice.recorded == {name: 7}
    assert not choice.stop
    assert "1 files" in choice.not_checked[0]


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE", "LICENSE.txt", "notes.md", "vocab.txt", "merges.txt", "tokenizer.model", "a.png",
        ".gitattributes", ".DS_Store", "trainer_state.json", "sub/adapter_config.json",
    ],
)  # fmt: skip
def test_what_is_known_is_recorded_without_a_word(name):
    assert found(*ADAPTER, name) == {}
    assert chosen(*ADAPTER, name).recorded == {name: 7}


def test_links_and_folders_are_never_opened():
    entries = [Entry(name, 7) for name in ADAPTER]
    odd = [Entry("tokenizer.json", 0, "link"), Entry(".git", 0, "folder")]
    choice = choose([*entries, *odd])
    assert {entry.name for entry in choice.opened} == set(ADAPTER)
    assert choice.recorded == {"tokenizer.json": 0, ".git": 0}


def concluded(template):
    artefact = Artefact("x", "folder")
    artefact.files["t.jinja"] = Snapshots().keep("t.jinja", [template], len(template))
    check = conclude_files(chosen(*ADAPTER, "t.jinja"), artefact, Limits())
    artefact.close()
    return check


def test_a_template_is_shown_as_text():
    check = concluded(b"{{ messages[0]['content'] }}\x1b[2J" + b"x" * 10_000)
    (finding,) = check.findings
    assert (finding.code, finding.severity) == ("GATE-BESIDE", Severity.INFO)
    assert check.status == "passed"
    shown = check.facts["templates"]["t.jinja"]
    assert shown.startswith("{{ messages[0]['content'] }}\\u001b[2J")
    assert len(shown) < 4200


@pytest.mark.parametrize(
    "template",
    [
        b"{{ cycler.__init__.__globals__.os }}",
        b"{{ x|attr('y') }}",
        b"{{ ().mro }}",
        b"\xff import",
    ],
)
def test_a_template_that_reaches_for_python(template):
    check = concluded(template)
    assert [finding.code for finding in check.findings] == ["GATE-CODE"]
    assert check.status == "found"


def test_a_template_that_only_speaks_of_importing():
    assert concluded(b"{# important: imported text #}").status == "passed"
