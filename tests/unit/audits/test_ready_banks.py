"""The banks that the package ships: what the published method reaches on them, where it fails."""

import json
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose

from peftlab.audits.size import SpectraBank, evaluate
from peftlab.audits.size.bank_files import BUILTIN, builtin_banks
from peftlab.audits.size.farm.export import base_folder
from peftlab.audits.size.farm.recipe import FarmOptions
from peftlab.audits.size.farm.run import config_name, run_farm
from peftlab.audits.size.mismatch import mismatch
from peftlab.io.files import sha256_file

MAIN = "low_4_denoiser"
BANKS = tuple(builtin_banks())


def bank(name):
    return SpectraBank.load(f"builtin:{name}")


def vote(name):
    return evaluate(bank(name), ("vote",), conformal=False)


@pytest.fixture(scope="module")
def main():
    return vote(MAIN)


def test_main_bank_is_the_first_that_an_adapter_is_compared_with():
    assert [name for name in BANKS if name.endswith("denoiser") and "_4_" in name][0] == MAIN  # noqa: RUF015


@pytest.mark.parametrize("name", BANKS)
def test_banks_are_whole_and_say_what_they_are(name):
    folder = BUILTIN / name
    found = bank(name)
    card = (folder / "README.md").read_text()
    assert "No real images" in card
    assert found.about["synthetic"] is True
    for file in ("bank.json", "spectra.safetensors"):
        assert sha256_file(folder / file) in card
    weights = base_folder(found.recipe["backbone"]) / "model.safetensors"
    assert found.recipe["base_sha256"] == sha256_file(weights)
    known = {key: value for key, value in found.recipe.items() if key in FarmOptions.model_fields}
    options = FarmOptions(**known | {"concepts": len(found.concepts)})
    assert name in {options.config, config_name(options.model_copy(update={"steps": 500}),
                                                found.recipe["steps"])}  # fmt: skip


def test_banks_are_small():
    assert sum(file.stat().st_size for file in BUILTIN.rglob("*")) < 8 * 10**6


def test_vote_beats_every_constant_by_far(main):
    assert main.mae <= 1.15
    assert main.mae <= main.chance["best_constant_mae"] - 0.35
    assert main.accuracy >= 0.33


def test_shuffled_sizes_give_chance(main):
    assert abs(main.control - main.chance["uniform_mae"]) <= 0.15


def test_updates_shrink_with_every_image():
    found = bank(MAIN)
    norms = found.norms("BA").mean(axis=1)
    means = [norms[found.sizes == size].mean() for size in found.levels]
    assert (np.diff(means) < 0).all()


def test_longer_training_tells_more(main):
    assert main.mae <= vote(f"{MAIN}_step125").mae - 0.05


def test_flipped_images_tell_less(main):
    assert vote(f"{MAIN}_flip").mae >= main.mae + 0.15


def test_seeds_of_their_own_hardly_help(main):
    assert abs(vote(f"{MAIN}_own").mae - main.mae) <= 0.2


def test_another_recipe_misleads_and_references_mend_it():
    rows = mismatch({"500": bank(MAIN), "250": bank(f"{MAIN}_step250")}, repeats=3)
    found = {(row["bank"], row["target"]): row for row in rows}
    wrong, right = found["500", "250"], found["500", "500"]
    assert wrong["mae"] > 1.5
    assert wrong["flagged"] >= 0.3
    assert right["flagged"] <= 0.1
    assert wrong["calibrated"]["3"] <= 1.35


def test_figures_of_the_docs_are_those_of_the_banks(main):
    from pathlib import Path

    file = Path(__file__).parents[3] / "docs" / "measured" / "size-mini-wise.json"
    rows = json.loads(file.read_text())["settings"]
    own = next(row for row in rows if row["bank_sha256"] == main.about["bank_sha256"])
    assert own["heads"][0]["mae"] == main.to_json()["heads"][0]["mae"]
    assert {row["bank_sha256"] for row in rows} == {bank(name).sha256 for name in BANKS}


@pytest.mark.full
def test_a_fresh_farm_is_quick_and_the_one_that_ships():
    shipped = bank(MAIN)
    start = time.process_time()
    farm = run_farm(FarmOptions(concepts=40))
    assert time.process_time() - start < 180
    fresh = farm.bank()
    assert_allclose(fresh.norms(), shipped.norms(), rtol=0.02)
    assert evaluate(fresh, ("vote",), conformal=False).mae <= 1.15


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2])
def test_other_concepts_tell_the_same_story(seed):
    plain, flipped = (
        run_farm(FarmOptions(concepts=40, seed=seed, augment=kind)) for kind in ("none", "flip")
    )
    last, early, flip = (
        evaluate(part, ("vote",), conformal=False).mae
        for part in (plain.bank(), plain.bank(125), flipped.bank())
    )
    assert last <= 1.15
    assert last < early
    assert flip > last
    norms, sizes = plain.bank().norms().mean(axis=1), np.array(plain.sizes)
    assert (np.diff([norms[sizes == size].mean() for size in range(1, 7)]) < 0).all()
