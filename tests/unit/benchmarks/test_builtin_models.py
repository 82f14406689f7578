"""The evaluation of the built-in models: loaders, controls, resume, and the page."""

import gzip
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from peftlab.core.errors import InputRejected
from peftlab.models.load import load_base, load_tokenizer
from peftlab.nn.heads import new_modules

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
builtin_models = importlib.import_module("builtin_models")
tasks = importlib.import_module("_builtin_tasks")
units = importlib.import_module("_builtin_units")
pages = importlib.import_module("_builtin_page")

GOOD, BAD = "a good and moving film", "a bad and dull film"


def pack(path, lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(line + end for line in lines).encode()))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return a data folder with made-up files in the published formats."""
    data = tmp_path / "data"
    rows = [f"{GOOD if i % 2 else BAD} number {i}\t{i % 2}" for i in range(24)]
    for split, part in (("train", rows[:16]), ("dev", rows[16:20]), ("test", rows[20:])):
        pack(data / f"sst2/{split}.tsv.gz", ["sentence\tlabel", *part], end="\r\n")
        news = [f"{text} , {i} \t {i % 4}" for i, text in enumerate(["news"] * (4 * len(part)))]
        pack(data / f"agnews/{split}.tsv.gz", ["sentence \t label", *news])
    # a phrase, then one row that is in dev and one that is in test
    large = ["good film \t1", "dull film\t0", rows[16].replace("\t", " \t"), rows[21]]
    pack(data / "sst2/train_glue67k.tsv.gz", ["sentence\tlabel", *large])
    cola = [f'gj04\t{i % 2}\t{"" if i % 2 else "*"}\tI say "{i}".' for i in range(20)]
    pack(data / "cola/in_domain_train.tsv.gz", cola)
    pack(data / "cola/in_domain_dev.tsv.gz", ["a\t1\t\tfirst", "a\t0\t*\tsecond"])
    pack(data / "cola/out_of_domain_dev.tsv.gz", ["b\t1\t\tthird"])
    pairs = [
        {"premise": f"{GOOD} {i}", "hypothesis": GOOD if i % 2 else BAD,
         "label": "entailment" if i % 2 else "not_entailment", "idx": i}
        for i in range(20)
    ]  # fmt: skip
    pack(data / "superglue/rte_train.jsonl.gz", [json.dumps(pair) for pair in pairs])
    pack(data / "superglue/rte_val.jsonl.gz", [json.dumps(pair) for pair in pairs[:6]])
    monkeypatch.setenv("PEFTLAB_DATA", str(data))
    return data


@pytest.fixture
def masked(tiny, tmp_path):
    """Return a tiny masked language model: what the built-in encoder is, without its size."""
    return headless(tiny("bert"), tmp_path / "masked", "AutoModelForMaskedLM")


def headless(source, folder, kind):
    import transformers

    config = transformers.AutoConfig.from_pretrained(source)
    getattr(transformers, kind).from_config(config).save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    return folder


@pytest.fixture
def quick(monkeypatch, masked):
    """Measure a tiny encoder for one epoch."""
    for key in builtin_models.CHOSEN:
        monkeypatch.setitem(builtin_models.CHOSEN, key, {"lr": 1e-3, "epochs": 1})
    for name in ("encoder", "embeddings"):
        monkeypatch.setitem(builtin_models.BASES, name, str(masked))


def test_sst2(root):
    data = tasks.load_task("sst2-6920", root, "")
    assert [len(part) for part in (data.train, data.dev, data.test)] == [16, 4, 4]
    assert data.train.texts[1] == f"{GOOD} number 1"
    large = tasks.load_task("sst2-67349", root, "")
    assert [text.strip() for text in large.train.texts] == ["good film", "dull film"]
    assert (large.dev, large.test) == (data.dev, data.test)


def test_agnews(root, monkeypatch):
    monkeypatch.setattr(tasks, "DEV_LIMIT", 10)
    data = tasks.load_task("agnews", root, "")
    assert data.n_classes == 4
    assert data.train.texts[5] == "news , 5"
    assert data.train.labels[5] == 1
    assert len(data.dev) == 10
    assert data.dev == tasks.load_task("agnews", root, "").dev


def test_cola(root):
    data = tasks.load_task("cola", root, "")
    assert data.test.texts == ("first", "second", "third")
    assert data.test.labels == (1, 0, 1)
    assert len(data.train) + len(data.dev) == 20
    assert not set(data.train.texts) & set(data.dev.texts)
    assert 'I say "0".' in {*data.train.texts, *data.dev.texts}


def test_cola_with_other_fields_is_refused(root):
    pack(root / "cola/in_domain_dev.tsv.gz", ["a\t1\tsentence"])
    with pytest.raises(InputRejected, match=r"in_domain_dev\.tsv\.gz, line 1") as error:
        tasks.load_task("cola", root, "")
    assert error.value.code == "DATA-FIELDS"


def test_rte_is_one_text_with_the_hypothesis_first(root):
    data = tasks.load_task("rte", root, "[SEP]")
    assert data.label_names == ("entailment", "not_entailment")
    assert data.test.texts[0] == f"{BAD} [SEP] {GOOD} 0"
    assert data.test.labels[:2] == (1, 0)


@pytest.mark.parametrize(("family", "expected"), [("bert", "[SEP]"), ("llama", "</s>")])
def test_the_separator_is_one_that_the_tokenizer_knows(tiny, family, expected):
    tokenizer = load_tokenizer(tiny(family))
    assert tasks.separator_of(tokenizer) == expected
    inside = tokenizer(f"a {expected} b", add_special_tokens=False).input_ids
    assert inside.count(tokenizer.convert_tokens_to_ids(expected)) == 1
    tokenizer.sep_token = tokenizer.eos_token = None
    assert tasks.separator_of(tokenizer) == "\n"


@pytest.mark.parametrize("seed", range(5))
def test_matthews_and_its_interval(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 200)
    predicted = np.where(rng.random(200) < 0.7, labels, 1 - labels)
    assert units.matthews(labels, predicted) == pytest.approx(matthews_corrcoef(labels, predicted))
    found = units.judge("matthews", labels, predicted, seed)
    assert found["low"] < found["value"] < found["high"]
    assert 0.1 < found["high"] - found["low"] < 0.35
    assert found == units.judge("matthews", labels, predicted, seed)


def test_one_class_alone_has_no_correlation():
    assert units.matthews(np.array([0, 1, 1]), np.array([1, 1, 1])) == 0.0
    found = units.judge("matthews", np.array([1, 1]), np.array([1, 1]), 0)
    assert (found["value"], found["low"], found["high"]) == (0.0, 0.0, 0.0)


def test_embeddings_only(masked, tmp_path):
    import torch

    folder = units.embeddings_only(str(masked), tmp_path / "made", seed=1)
    source, _ = load_base(str(masked), 2)
    made, _ = load_base(str(folder), 2)
    other, _ = load_base(str(units.embeddings_only(str(masked), tmp_path / "other", seed=2)), 2)
    assert new_modules(made) == new_modules(source)  # both lack the pooler and the head
    theirs, third = source.state_dict(), other.state_dict()
    for name, weight in made.state_dict().items():
        if "embeddings" in name:
            assert torch.equal(weight, theirs[name])
        elif "layer" in name and weight.dim() == 2:
            assert not torch.equal(weight, theirs[name])
            assert not torch.equal(weight, third[name])


def measured(work):
    return {path.name: path.stat().st_mtime_ns for path in (work / "units").glob("*.json")}


def test_resume(root, quick, tmp_path, capsys, monkeypatch):
    work = tmp_path / "work"
    command = ["--work", str(work), "--tasks", "sst2-6920,cola", "--bases", "encoder,embeddings",
               "--tuners", "full", "--seeds", "3"]  # fmt: skip
    assert builtin_models.main([*command, "--limit-minutes", "0"]) == 0
    assert "4 units are left" in capsys.readouterr().err
    assert builtin_models.main([*command, "--tasks", "cola"]) == 0
    first = measured(work)
    assert sorted(first) == ["cola--embeddings--full--3.json", "cola--encoder--full--3.json"]
    assert builtin_models.main([*command, "--json"]) == 0
    output = capsys.readouterr()
    assert "4 units, 2 of them done" in output.err
    again = measured(work)
    assert {name: again[name] for name in first} == first
    found = json.loads(output.out)["units"]
    assert [unit["metric"] for unit in found] == ["matthews"] * 2 + ["accuracy"] * 2
    assert str(tmp_path) not in output.out
    assert all(unit["key"]["reference"] == "a folder" for unit in found)
    monkeypatch.setitem(builtin_models.CHOSEN, ("full", "encoder"), {"lr": 1e-3, "epochs": 2})
    builtin_models.main(command)
    changed = measured(work)
    assert {name for name in changed if changed[name] != again[name]} == {
        "cola--encoder--full--3.json", "sst2-6920--encoder--full--3.json",
    }  # fmt: skip


def test_a_causal_model_takes_the_same_path(root, quick, tiny, tmp_path):
    folder = headless(tiny("llama"), tmp_path / "causal", "AutoModelForCausalLM")
    work = tmp_path / "work"
    command = ["--work", str(work), "--base", f"lm={folder}", "--bases", "lm", "--tasks", "rte"]
    assert builtin_models.main([*command, "--tuners", "lora", "--seeds", "0"]) == 0
    (found,) = builtin_models.collect(work, "units")
    assert found["key"]["kind"] == "causal"
    assert found["test"]["n"] == 6
    assert found["texts"]["train"] == 10


def test_choosing_looks_at_dev_only(root, quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(builtin_models.GRID, "full", {"lr": [1e-3, 1.0], "epochs": [1]})
    work = tmp_path / "work"
    command = ["--work", str(work), "--tasks", "sst2-6920", "--bases", "encoder"]
    assert builtin_models.main([*command, "--tuners", "full", "--choose"]) == 0
    found = builtin_models.collect(work, "choices")
    assert len(found) == 2
    assert all("test" not in unit for unit in found)
    assert {unit["key"]["seed"] for unit in found} == {builtin_models.CHOICE_SEED}
    assert "| full | encoder | lr 0.001, epochs 1 |" in capsys.readouterr().out
    assert not (work / "units").exists()


def test_a_diverged_unit_is_a_result(root, quick, tmp_path, monkeypatch, capsys):
    from peftlab.core.errors import RunFailed

    def diverge(*args, **kwargs):
        raise RunFailed(f"not finite in {tmp_path}", code="TRAIN-NONFINITE")

    monkeypatch.setattr(units, "tune", diverge)
    command = ["--work", str(tmp_path / "work"), "--tasks", "cola", "--bases", "encoder"]
    assert builtin_models.main([*command, "--tuners", "full", "--seeds", "0", "--json"]) == 0
    output = capsys.readouterr().out
    assert json.loads(output)["units"][0]["failed"] == "TRAIN-NONFINITE"
    assert str(tmp_path) not in output
    assert builtin_models.main(["--work", str(tmp_path / "work"), "--page"]) == 0
    assert "encoder, full, seed 0: failed (TRAIN-NONFINITE)" in capsys.readouterr().out


def test_missing_data_is_skipped_loudly(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PEFTLAB_DATA", str(tmp_path))
    assert builtin_models.main(["--work", str(tmp_path / "work"), "--json"]) == 0
    output = capsys.readouterr()
    assert output.err.count("SKIPPED") == len(tasks.TASKS)
    assert json.loads(output.out)["units"] == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["--work", "w", "--tasks", "mnli"], ["--work", "w", "--bases", "other"],
     ["--work", "w", "--base", "encoder=x"], ["--work", "w", "--base", "a/b=x"]],
)  # fmt: skip
def test_wrong_command_lines(arguments):
    with pytest.raises(SystemExit) as error:
        builtin_models.main(arguments)
    assert error.value.code == 2


@pytest.mark.full
def test_workers_find_what_one_process_finds(root, quick, tmp_path):
    common = ["--tasks", "sst2-6920,rte", "--bases", "encoder", "--seeds", "0,1"]
    found = []
    for workers in ("1", "2"):
        work = tmp_path / workers
        builtin_models.main(["--work", str(work), *common, "--workers", workers])
        found.append(
            [(u["key"], u["test"], u["loss"]) for u in builtin_models.collect(work, "units")]
        )
    assert len(found[0]) == 8
    assert found[0] == found[1]


def unit(task="sst2-6920", base="encoder", tuner="full", seed=0, value=0.8, **key):
    """Return a made-up result."""
    judged = {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 1821}
    kind = "encoder" if base == "encoder" else "scratch"
    return {
        "key": {"task": task, "base": base, "tuner": tuner, "seed": seed, "kind": kind,
                "reference": f"builtin:{base}", "base_fingerprint": base, "data_sha256": task,
                "options": {"lr": 2e-4, "epochs": 3}, **key},
        "dev": {**judged, "value": value + 0.01}, "test": judged, "trainable": 1234, "cut_share": 0,
        "texts": {"train": 6920, "dev": 872, "test": 1821}, "chance": 0.501, "cpu_seconds": 60,
        "notes": ["info: 2 of 1821 test texts are also in train [HYGIENE-LEAK-TEST-TRAIN]"],
        "machine": {"processor": "made up", "torch": "2.13.0"},
    }  # fmt: skip


def page_of(found, choices=()):
    return pages.page(found, choices, builtin_models.CHOSEN)


def test_page_tells_what_met_its_bar_and_what_did_not():
    found = [unit(seed=s, value=v) for s, v in enumerate((0.82, 0.84, 0.86))]
    found += [unit(base="scratch", seed=s, value=0.8) for s in range(3)]
    found += [unit(tuner="lora", seed=s, value=0.79) for s in range(3)]
    found += [unit(tuner="lora", base="scratch", seed=s, value=0.79) for s in range(3)]
    found += [unit("cola", seed=0, value=0.10)]
    text = page_of(found)
    bars = dict.fromkeys(line for line in text.splitlines() if line.startswith("| "))
    sst2, mean = "| SST-2, 6,920 sentences, ", "met by the mean, not by every seed"
    for line in (
        f"{sst2}full: at least 0.83 | 0.840 [0.820 to 0.860] | {mean} |",
        f"{sst2}lora: at least 0.81 | 0.790 [0.790 to 0.790] | **MISSED** |",
        f"{sst2}full: encoder above scratch | +0.040 | met, by every seed against every seed |",
        f"{sst2}lora: encoder above scratch | +0.000 | **MISSED** |",
        "| CoLA, full: above 0.10 | 0.100 [0.100 to 0.100] | **MISSED** (1 seed only) |",
        "| SST-2, 67,349 sentences and phrases, full: at least 0.86 | - | not measured |",
        "| RTE, full: encoder above scratch | - | not measured |",
    ):
        assert line in bars
    row = next(line for line in text.splitlines() if line.startswith("| encoder | full | 0.850"))
    assert "0.820 [0.800 to 0.840]; 0.840 [0.820 to 0.860]" in row
    assert "1,234" in row
    assert "2 of 1821 test texts are also in train" in text
    assert "processor made up; torch 2.13.0" in text
    assert text.index("| encoder | full | 0.8") < text.index("| scratch | full | 0.8")


def test_page_warns_of_seeds_that_do_not_belong_together():
    alike = [unit(seed=s) for s in range(3)]
    assert "differ" not in page_of(alike)
    assert "the seeds differ in options" in page_of([*alike[:2], unit(seed=2, options={"lr": 1.0})])
    assert "the seeds differ in base_fingerprint" in page_of(
        [*alike[:2], unit(seed=2, base_fingerprint="new")]
    )


def test_page_of_nothing():
    text = page_of([])
    assert text.count("Not measured.") == len(tasks.TASKS)
    assert "MISSED" not in text
    assert "No candidates were compared on dev" in text


def test_choices_that_are_not_in_use_are_named():
    def tried(lr, value, **other):
        found = unit(value=value, options={"lr": lr, "epochs": 3}, **other)
        del found["test"]
        return found

    choices = [tried(2e-4, 0.80), tried(5e-4, 0.84), tried(1e-4, 0.9, seed=100)]
    choices += [tried(lr, 0.2, task="cola") for lr in (2e-4, 5e-4)]  # 1e-4 was tried on one only
    lines = pages.choice_table(choices, builtin_models.CHOSEN).splitlines()
    assert "| full | encoder | lr 0.0005, epochs 3 | 0.530 | 2 | best |" in lines
    assert "| full | encoder | lr 0.0002, epochs 3 | 0.510 | 2 | in use |" in lines
    assert "| full | encoder | lr 0.0001, epochs 3 | incomplete or failed | 1 |  |" in lines
    assert any("**in use, but not the best on dev**" in line for line in lines)
