"""Mini-WiSE: stacked training is single training, what is written is read, a kill is mended."""

import doctest
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from peftlab.audits.size import SpectraBank
from peftlab.audits.size.farm import concepts, recipe, sentences
from peftlab.audits.size.farm import run as running
from peftlab.audits.size.farm.backbone import BACKBONES, all_shapes, load_base
from peftlab.audits.size.farm.export import base_folder, clean_adapters, export_adapters
from peftlab.audits.size.farm.recipe import FarmOptions
from peftlab.audits.size.farm.run import run_farm
from peftlab.audits.size.farm.stacked import jobs_of, train
from peftlab.audits.size.farm.transformer import WIDTHS, Factors, layer_names
from peftlab.audits.size.farm.write import write_bank
from peftlab.core.errors import ConfigError

NAMES = ("tiny-denoiser", "tiny-lm")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small():
    """Return a small farm of the denoiser."""
    return run_farm(FarmOptions(concepts=2, steps=8, snapshots=(2, 4)), chunk=5)


@pytest.mark.parametrize(
    ("backbone", "more"), [("tiny-denoiser", {}), ("tiny-lm", {"seeds": "own", "batch": 2})]
)
def test_three_at_once_are_three_alone(backbone, more):
    options = FarmOptions(backbone=backbone, concepts=2, steps=50, snapshots=(1,), **more)
    base, jobs = load_base(backbone), jobs_of(options)[2:8:2]
    together = train(base, jobs, options)[50].pairs
    for row, job in enumerate(jobs):
        alone = train(base, [job], options)[50].pairs
        for layer, pair in alone.items():
            for factor, other in zip(pair, together[layer], strict=True):
                assert torch.allclose(factor[0], other[row], rtol=0, atol=1e-5), layer


def test_private_training_is_the_same_at_once_and_alone():
    options = FarmOptions(concepts=2, steps=10, batch=2, dp_clip=0.01, dp_noise=0.1)
    base, jobs = load_base("tiny-denoiser"), jobs_of(options)[:2]
    together = train(base, jobs, options)[10].pairs
    alone = train(base, jobs[1:], options)[10].pairs
    a, b = (part["layers.0.fc1"][1] for part in (together, alone))
    assert torch.allclose(a[1], b[0], atol=1e-5)
    assert not torch.allclose(a[0], a[1], atol=1e-4)  # noise is never shared


def test_a_wide_clip_without_noise_changes_nothing():
    base = load_base("tiny-denoiser")
    plain = FarmOptions(concepts=2, steps=6, batch=2)
    jobs = jobs_of(plain)[:3]
    a = train(base, jobs, plain)[6].pairs
    b = train(base, jobs, FarmOptions(concepts=2, steps=6, batch=2, dp_clip=1e6))[6].pairs
    assert all(torch.allclose(a[name][1], b[name][1], atol=1e-5) for name in a)


def test_clipped_gradients_of_examples_are_those_of_a_loop():
    from peftlab.audits.size.farm.stacked import Supply, _backward

    clip = 0.05
    options = FarmOptions(concepts=2, steps=2, batch=3, dp_clip=clip)
    base, jobs = load_base("tiny-denoiser"), jobs_of(options)[4:6]
    factors = Factors.fresh([0, 0], options.rank, options.scale)
    for leaf in factors.leaves():
        leaf.add_(0.1 * torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1)))
        leaf.requires_grad_()
    examples, drawn = Supply(base, jobs, options).step(0)
    _backward(base, factors, examples, drawn, options)
    got = [leaf.grad.clone() for leaf in factors.leaves()]
    wanted = [torch.zeros_like(leaf) for leaf in factors.leaves()]
    for model in range(2):
        for k in range(3):
            one = {key: value[:, k : k + 1] for key, value in drawn.items()}
            losses = base.backbone.losses(base.weights, factors, examples[:, k : k + 1], one)
            grads = torch.autograd.grad(losses[model, 0], factors.leaves())
            norm = torch.sqrt(sum(grad.square().sum() for grad in grads))
            for total, grad in zip(wanted, grads, strict=True):
                total.add_(grad * min(1.0, clip / float(norm)) / 3)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(got, wanted, strict=True))


def test_same_options_give_the_same_bytes(small):
    again = run_farm(small.options, chunk=5)
    assert again.bank().sha256 == small.bank().sha256
    assert run_farm(small.options.model_copy(update={"seed": 1})).bank().sha256 != (
        small.bank().sha256
    )


def test_a_killed_farm_goes_on(small, tmp_path, monkeypatch):
    work, calls = tmp_path / "work", []

    def dies_in_the_third(*given, **more):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*given, **more)

    monkeypatch.setattr(running, "train", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_farm(small.options, work=work, chunk=5)
    assert len(list(work.glob("chunk-*"))) == 2
    found = run_farm(small.options, work=work, chunk=5)
    assert len(calls) == 4  # three chunks: two kept, one trained again
    for step in small.options.kept:
        assert found.bank(step).sha256 == small.bank(step).sha256
    with pytest.raises(ConfigError, match="FARM-WORK"):
        run_farm(small.options.model_copy(update={"lr": 0.1}), work=work, chunk=5)


def test_written_banks_are_read_back(small, tmp_path):
    pytest.importorskip("pyarrow")
    files = write_bank(small, tmp_path / "bank")
    assert "low_4_denoiser_step2/bank.json" in files
    assert sorted(name for name in files if "/" not in name) == [
        "README.md", "adapters.parquet", "bank.json", "spectra.safetensors",
    ]  # fmt: skip
    for step, folder in ((8, "bank"), (2, "bank/low_4_denoiser_step2")):
        for bank in (
            SpectraBank.load(tmp_path / folder),
            SpectraBank.from_parquet(tmp_path / folder / "adapters.parquet"),
        ):
            assert bank.sha256 == small.bank(step).sha256
            assert bank.recipe == small.recipe(step)
            assert bank.recipe["steps"] == step
    card = (tmp_path / "bank" / "README.md").read_text()
    assert "No real images" in card
    assert "peftlab size farm --concepts 2" in card
    assert str(tmp_path) not in card
    with pytest.raises(ConfigError, match="FOLDER-EXISTS"):
        write_bank(small, tmp_path / "bank")


def test_rows_have_the_public_columns(small, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    write_bank(small, tmp_path / "bank")
    table = pq.read_table(tmp_path / "bank" / "adapters.parquet")
    names = table.column_names
    assert names[:2] == ["label", "name"]
    assert sum(name.endswith(".lora.down") for name in names) == 12
    assert {"rank", "alpha", "lr", "steps", "batch", "seed", "augment", "base_sha256",
            "loss_final"} < set(names)  # fmt: skip
    assert str(table.schema.field("label").type) == "int32"
    a, _ = small.factors()["layers.1.fc2"]
    assert np.allclose(table["layers.1.fc2.lora.down"][3].as_py(), a[3].flatten().numpy())


def test_exported_adapters_give_the_spectra_of_the_bank(small, tmp_path):
    pytest.importorskip("pyarrow")
    write_bank(small, tmp_path / "bank")
    folders = export_adapters(tmp_path / "bank", tmp_path / "adapters", [0, 7])
    assert [folder.name for folder in folders] == [
        "0000-concept-0000-size-1", "0007-concept-0001-size-2",
    ]  # fmt: skip
    bank, own = small.bank(), SpectraBank.from_adapters(folders, [1, 2], ["x", "y"])
    for name in bank.matrices:
        assert np.allclose(own.matrices[name], bank.matrices[name][[0, 7]], rtol=1e-5), name
    small.bank().save(tmp_path / "spectra")
    with pytest.raises(ConfigError, match="FARM-FACTORS"):
        export_adapters(tmp_path / "spectra", tmp_path / "none")


def test_the_language_model_is_a_stock_one_and_peft_agrees(tmp_path):
    from peft import PeftModel
    from transformers import OPTForCausalLM

    folder = clean_adapters(tmp_path / "clean", 2, steps=20)[1]
    stock = OPTForCausalLM.from_pretrained(base_folder("tiny-lm")).eval()
    base, codes = load_base("tiny-lm"), BACKBONES["tiny-lm"].draw(3, 1, 4)
    mask = (codes != sentences.PAD).long()
    ours = BACKBONES["tiny-lm"].logits(base.weights, None, codes[None])[0]
    kept = mask.bool()
    with torch.no_grad():
        theirs = stock(input_ids=codes, attention_mask=mask).logits
        assert torch.allclose(ours[kept], theirs[kept], atol=1e-4)
        adapted = PeftModel.from_pretrained(stock, str(folder)).eval()
        theirs = adapted(input_ids=codes, attention_mask=mask).logits
    tensors = load_file(folder / "adapter_model.safetensors")
    pairs = {
        name: tuple(
            tensors[f"base_model.model.model.decoder.{name}.lora_{part}.weight"][None]
            for part in "AB"
        )
        for name in layer_names()
    }
    config = json.loads((folder / "adapter_config.json").read_text())
    factors = Factors.of(pairs, config["lora_alpha"] / config["r"])
    ours = BACKBONES["tiny-lm"].logits(base.weights, factors, codes[None])[0]
    assert torch.allclose(ours[kept], theirs[kept], atol=1e-4)
    with torch.no_grad(), adapted.disable_adapter():
        bare = adapted(input_ids=codes, attention_mask=mask).logits
    assert float((bare - theirs)[kept].abs().max()) > 0.1


@pytest.mark.parametrize("backbone", NAMES)
def test_shipped_bases_are_whole(backbone):
    weights = load_file(base_folder(backbone) / "model.safetensors")
    prefix = BACKBONES[backbone].PREFIX
    shapes = {prefix + name: shape for name, shape in all_shapes(BACKBONES[backbone]).items()}
    assert {name: tuple(value.shape) for name, value in weights.items()} == shapes
    card = (base_folder(backbone) / "README.md").read_text()
    assert load_base(backbone).sha256 in card
    assert "no real images" in card


@pytest.mark.parametrize("backbone", NAMES)
def test_pretraining_learns(backbone):
    from peftlab.audits.size.farm.pretrain import Training, pretrain

    weights, curve = pretrain(backbone, Training(examples=40, steps=40, batch=8))
    assert np.mean(curve[-5:]) < 0.9 * np.mean(curve[:5])
    assert set(weights) == set(all_shapes(BACKBONES[backbone]))


def test_examples_do_not_depend_on_how_many_are_asked_for():
    concept = concepts.draw_concept(0, 3)
    few, many = (concepts.draw_images(concept, 0, 3, range(n)) for n in (2, 5))
    assert np.array_equal(few, many[:2])
    assert np.abs(many).max() <= 1
    assert len({image.tobytes() for image in many}) == 5
    topic = sentences.draw_topic(0, 3)
    few, many = (sentences.draw_sentences(topic, 0, 3, n) for n in (2, 5))
    assert np.array_equal(few, many[:2])
    assert (many[:, 0] == sentences.START).all()
    assert ((many == sentences.END).sum(axis=1) == 1).all()
    assert many.max() < len(sentences.WORDS)
    assert len(set(sentences.WORDS)) == len(sentences.WORDS)


def test_bases_learn_from_other_concepts_than_farms():
    for number in range(3):
        farm, base = (concepts.draw_concept(0, number, use) for use in ("farm", "base"))
        assert not np.allclose(farm.waves, base.waves)


@pytest.mark.parametrize(
    "wrong", [{"augment": "drop"}, {"backbone": "tiny-lm", "augment": "flip"}, {"dp_noise": 1},
              {"snapshots": (500,)}, {"concepts": 1}],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError):  # noqa: PT011  pydantic's own
        FarmOptions(**wrong)


def test_a_loss_that_explodes_is_said():
    from peftlab.core.errors import RunFailed

    with pytest.raises(RunFailed, match="FARM-LOSS"):
        run_farm(FarmOptions(concepts=2, steps=40, lr=1.0, alpha=1024, weight_decay=10))


def test_every_adapted_layer_is_in_the_factors(small):
    assert list(small.factors()) == layer_names()
    for name, (a, b) in small.factors().items():
        d_out, d_in = WIDTHS[name.split(".", 2)[2]]
        assert (a.shape, b.shape) == ((12, 4, d_in), (12, d_out, 4))
        assert float(b.abs().max()) > 0


@pytest.mark.parametrize("module", [concepts, sentences, running, recipe])
def test_examples_of_the_docs(module):
    assert doctest.testmod(module).failed == 0
