"""peftlab size fit, predict and bench: results, exit codes, the page."""

import json

import pytest
from tests.cli_tools import cli

from peftlab.audits.size.features import Shape, Spectra
from size_banks import make_bank

RECIPE = {"lr": 1e-3, "steps": 500}


def write_adapter(folder, bank, row, rank=4):
    """Write a peft folder with the spectra of one adapter of a made-up bank."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    spectra: Spectra = bank.spectra(row)
    for layer, shape in spectra.shapes.items():
        d_in, d_out = shape.d_in, shape.d_out
        stem = f"base_model.model.{layer}"
        a, b = torch.zeros(rank, d_in), torch.zeros(d_out, rank)
        for i in range(min(rank, shape.rank)):
            a[i, i] = float(spectra.matrices[f"{layer}/A"][i])
            b[i, i] = float(spectra.matrices[f"{layer}/B"][i])
        tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a bank, an auditor and an adapter of size 3."""
    root = tmp_path_factory.mktemp("size")
    bank = make_bank(concepts=20, layers=3, noise=0.05, own=0.03, recipe=RECIPE)
    bank.save(root / "bank")
    write_adapter(root / "adapter", bank, 2)
    done = cli("size", "fit", "--bank", root / "bank", "--out", root / "auditor",
               "--features", "A,B")  # fmt: skip
    assert done.code == 0, done.err
    return root


def test_fit_says_what_it_learned(place, tmp_path):
    done = cli("size", "fit", "--bank", place / "bank", "--head", "lda", "--out", tmp_path / "a",
               "--json")  # fmt: skip
    assert done.code == 0, done.err
    found = done.json()
    assert (found["adapters"], found["concepts"], found["head"]) == (120, 20, "lda")
    assert found["sizes"] == [1, 2, 3, 4, 5, 6]
    assert found["recipe"] == RECIPE
    again = cli("size", "fit", "--bank", place / "bank", "--out", tmp_path / "a")
    assert again.code == 2
    assert "FOLDER-EXISTS" in again.err


def predict(place, *arguments, adapter="adapter"):
    return cli("size", "predict", "--auditor", place / "auditor", "--adapter", place / adapter,
               *arguments)  # fmt: skip


def test_predict_needs_a_recipe(place):
    done = predict(place)
    assert done.code == 2
    assert "recipe unknown: size not identified" in done.err
    assert "--assume-recipe" in done.err
    differs = predict(place, "--recipe", "lr=5e-3,steps=500")
    assert differs.code == 2
    assert "lr 0.001 in the bank, 0.005 here" in differs.err


def test_predict_with_a_recipe(place):
    done = predict(place, "--recipe", "lr=1e-3", "--recipe", "steps=500", "--json")
    assert done.code == 0, done.err
    found = done.json()
    assert found["size"] == 3
    assert found["identified"] is True
    assert 3 in found["set"]["sizes"]
    assert abs(sum(found["votes"].values()) - 1) < 1e-4
    assert found["chance"] == {"uniform_mae": 1.94444, "best_constant_mae": 1.5}
    words = predict(place, "--assume-recipe")
    assert words.code == 0
    assert "about 3 training examples" in words.out
    assert "assumed" in words.out


def test_predict_with_references(place):
    bank = make_bank(concepts=20, layers=3, noise=0.05, own=0.03, recipe=RECIPE)
    known = write_adapter(place / "known", bank, 8)
    done = predict(place, "--reference", f"{known}=3", "--json")
    assert done.code == 0, done.err
    assert done.json()["recipe"]["status"] == "calibrated"
    assert predict(place, "--reference", f"{known}").code == 2
    assert predict(place, "--reference", f"{known}=40").code == 2


def test_page_of_one_adapter_loads_nothing(place, tmp_path):
    page = tmp_path / "page.html"
    done = predict(place, "--assume-recipe", "--format", "html", "--out", page)
    assert done.code == 0, done.err
    text = page.read_text()
    assert "Votes for each size" in text
    assert "Norm of the update by size" in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert predict(place, "--assume-recipe", "--format", "pdf").code == 2


def test_other_shapes_exit_4_and_are_named(place):
    bank = make_bank(concepts=20, layers=3, rank=8)
    write_adapter(place / "rank8", bank, 2, rank=8)
    done = predict(place, "--assume-recipe", adapter="rank8")
    assert done.code == 4
    assert "rank 8 (bank: 4)" in done.err
    fewer = make_bank(concepts=20, layers=2)
    write_adapter(place / "two", fewer, 2)
    done = predict(place, adapter="two")
    assert done.code == 4
    assert "layers.2.q_proj" in done.err


def test_pickles_and_bad_files_exit_3(place):
    (place / "evil.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    done = predict(place, "--assume-recipe", adapter="evil.bin")
    assert done.code == 3
    assert "convert --sandbox" in done.err
    (place / "bad.safetensors").write_bytes(b"\xff" * 64)
    assert predict(place, "--assume-recipe", adapter="bad.safetensors").code == 3
    assert predict(place, "--assume-recipe", adapter="missing").code == 3


def test_bench_is_the_contract(place, tmp_path):
    arguments = ("size", "bench", "--bank", place / "bank", "--heads", "vote,frobenius,ridge,lda",
                 "--repeats", "2", "--json")  # fmt: skip
    done = cli(*arguments)
    assert done.code == 0, done.err
    found = done.json()
    assert [row["head"] for row in found["heads"]] == ["vote", "frobenius", "ridge", "lda"]
    assert set(found["heads"][0]) == {"head", "mae", "mape", "accuracy"}
    assert set(found["chance"]) == {"uniform_mae", "best_constant_mae"}
    assert cli(*arguments).out == done.out
    assert done.json()["heads"][0]["mae"] < found["chance"]["best_constant_mae"]


def test_bench_as_text_with_a_report_and_another_recipe(place, tmp_path):
    make_bank(concepts=20, layers=3, scale=0.6, recipe={"lr": 1e-3, "steps": 250}).save(
        tmp_path / "other"
    )
    done = cli("size", "bench", "--bank", place / "bank", "--heads", "vote", "--repeats", "2",
               "--other", f"half={tmp_path / 'other'}", "--out", tmp_path / "out")  # fmt: skip
    assert done.code == 0, done.err
    for words in ("vote", "best constant", "uniform guess", "sizes shuffled", "Recipe mismatch"):
        assert words in done.out
    results = json.loads((tmp_path / "out" / "size.json").read_text())
    assert len(results["mismatch"]) == 4
    assert "Error when the recipe is another one" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--heads", "vtoe"), "did you mean vote"),
        (("--heads", ","), "SIZE-HEAD"),
        (("--features", "A,Q"), "SIZE-FEATURES"),
        (("--train", "20"), "SIZE-SPLIT"),
        (("--other", "x"), "CLI-OPTION"),
    ],
)
def test_bench_mistakes(place, arguments, words):
    done = cli("size", "bench", "--bank", place / "bank", *arguments)
    assert done.code == 2
    assert words in done.err


def test_shapes_of_the_made_up_adapter(place):
    from peftlab.audits.size.features import read_spectra

    assert set(read_spectra(place / "adapter").shapes.values()) == {Shape(4, 16, 24)}
