"""The script that makes the image models: it learns, resumes, and writes stock folders."""

import re

import numpy as np
import pytest

from peftlab.core.errors import ConfigError, RunFailed
from peftlab.models.vision.images import FACTORS

TINY = {
    "vit": {"model": "vit", "width": 32, "depth": 1},
    "resnet": {"model": "resnet", "width": 8, "depth": 1},
}
FAST = {
    "batch": 32, "steps": 6, "warm_up": 2, "rate": 3e-3, "precision": "fp32", "device": "cpu",
    "held_out": 96, "checkpoint_minutes": 0, "log_every": 1,
}  # fmt: skip


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def make(folder, say=lambda _: None, *, kind="vit", **changes):
    from peftlab.models.vision.pretrain import pretrain
    from peftlab.models.vision.training import VisionOptions

    options = VisionOptions(**TINY[kind] | FAST | changes)
    return pretrain(options, work=folder / "work", out=folder / "out", progress=say)


def kill_at(step):
    def say(line):
        if line.startswith(f"step {step}/"):
            raise Killed

    return say


@pytest.fixture(scope="module", params=["vit", "resnet"])
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, make(folder, kind=request.param)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_training_lowers_the_loss(tmp_path, kind, monkeypatch):
    """On the same pictures again and again, which even a tiny model learns in a few steps."""
    from peftlab.models.vision import training

    def the_same(seed, first, count, part="train", draw=training.make_images):
        return draw(seed, 0, count, part)

    monkeypatch.setattr(training, "make_images", the_same)
    facts = make(tmp_path, kind=kind, steps=30, batch=12, checkpoint_minutes=9)
    assert 0.95 < facts.curve[0] < 1.3  # 1 is chance
    assert np.mean(facts.curve[-3:]) < 0.75


def test_kill_and_resume_gives_the_same_curve_and_weights(whole, tmp_path):
    from peftlab.io.files import sha256_file

    kind, folder, unbroken = whole
    for step in (2, 4):
        with pytest.raises(Killed):
            make(tmp_path, kill_at(step), kind=kind)
    said = []
    facts = make(tmp_path, said.append, kind=kind)
    assert said[0] == "going on from step 3"  # killed before the checkpoint of step 4
    np.testing.assert_allclose(facts.curve, unbroken.curve, rtol=0, atol=1e-6)
    assert facts.accuracy == pytest.approx(unbroken.accuracy, abs=0.03)
    assert sha256_file(tmp_path / "out/config.json") == sha256_file(folder / "out/config.json")


def test_another_run_in_the_work_folder_is_refused(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path, kill_at(2))
    with pytest.raises(ConfigError, match="PRETRAIN-OTHER"):
        make(tmp_path, seed=1)


def test_stock_transformers_loads_the_result(whole):
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from peftlab.io.files import sha256_file

    kind, folder, facts = whole
    out = folder / "out"
    model, report = AutoModelForImageClassification.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == torch.float16
    assert model.config.num_labels == sum(map(len, FACTORS.values()))
    assert model.config.id2label[0] == "shape: disc"
    processor = AutoImageProcessor.from_pretrained(out)
    pictures = [np.zeros((28, 28, 3), np.uint8), np.zeros((40, 30, 3), np.uint8)]
    inputs = processor(images=pictures, return_tensors="pt")
    side = 32 if kind == "vit" else 64
    assert inputs["pixel_values"].shape == (2, 3, side, side)
    with torch.no_grad():
        assert model.float().eval()(**inputs).logits.isfinite().all()
    card = (out / "README.md").read_text(encoding="utf-8")
    assert sha256_file(out / "model.safetensors") in card
    assert f"{facts.images_seen:,} in 6 steps" in card
    assert "generator: version 1, seed 0" in card
    for factor, accuracy in facts.accuracy.items():
        assert re.search(rf"^\| {factor} \|.*\| {accuracy:.3f} \|$", card, re.MULTILINE)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip


def test_the_result_remembers_what_it_learned(whole):
    """What the card says is what the folder does, through the stock processor."""
    import torch

    from peftlab.models.vision.images import make_images
    from peftlab.models.vision.load import load_vision, prepare

    _, folder, facts = whole
    model, processor = load_vision(str(folder / "out"), 38)
    images = make_images(0, 0, 96, "held-out")
    with torch.no_grad():
        logits = model(pixel_values=prepare(processor, images.pixels)).logits
    right = logits[:, :8].argmax(dim=1).numpy() == images.column("shape")
    assert right.mean() == pytest.approx(facts.accuracy["shape"], abs=0.03)


@pytest.mark.parametrize("side", [32, 64])
def test_fast_input_agrees_with_the_stock_processor(side):
    import torch

    from peftlab.models.vision.images import make_images
    from peftlab.models.vision.load import prepare
    from peftlab.models.vision.models import image_processor, to_input

    pixels = make_images(0, 0, 4).pixels
    ours, stock = to_input(torch.from_numpy(pixels), side), prepare(image_processor(side), pixels)
    assert float((ours - stock).abs().max()) <= 2 / 255 + 1e-6


@pytest.mark.parametrize(("kind", "least"), [("vit", 2.5e6), ("resnet", 2e6)])
def test_the_built_in_sizes_fit_eight_megabytes(kind, least):
    from peftlab.models.vision.models import build_model
    from peftlab.models.vision.training import VisionOptions, settle

    chosen = settle(VisionOptions(model=kind))
    model = build_model(kind, width=chosen.width, depth=chosen.depth, seed=0)
    assert least < sum(p.numel() for p in model.parameters()) < 3.5e6
    assert sum(v.numel() * 2 for v in model.state_dict().values()) < 8e6


def test_the_same_seed_builds_the_same_model():
    import torch

    from peftlab.models.vision.models import build_model

    one, same, other = (build_model("vit", width=32, depth=1, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_guessing_has_a_loss_of_one():
    import torch

    from peftlab.models.vision.images import make_images
    from peftlab.models.vision.training import factor_loss

    labels = torch.from_numpy(make_images(0, 0, 10).labels)
    assert float(factor_loss(torch.zeros(10, 38), labels)) == pytest.approx(1.0)


def test_learning_rate_goes_up_then_down():
    from peftlab.models.vision.training import VisionOptions, learning_rate

    options = VisionOptions(steps=1000)
    rates = [learning_rate(step, options) for step in range(1000)]
    assert max(rates) == rates[99] == options.rate
    assert rates[-1] < 1e-5 * options.rate / 1e-3
    assert np.all(np.diff(rates[100:]) < 0)


def test_a_target_that_exists_is_refused_at_once(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="FOLDER-EXISTS"):
        make(tmp_path)
    assert not (tmp_path / "work").exists()


def test_a_width_that_heads_do_not_divide_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="PRETRAIN-SHAPE"):
        make(tmp_path, width=200)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    def broken(logits, labels):
        return logits.sum() * float("nan")

    monkeypatch.setattr("peftlab.models.vision.training.factor_loss", broken)
    with pytest.raises(RunFailed, match="LOSS-NONFINITE"):
        make(tmp_path)


def test_weights_that_fp16_cannot_hold_are_refused(tmp_path, monkeypatch):
    import torch

    def explode(run, *rest):
        with torch.no_grad():
            run.model.classifier.weight.fill_(1e6)

    monkeypatch.setattr("peftlab.models.vision.pretrain.train", explode)
    with pytest.raises(RunFailed, match="PRETRAIN-HALF"):
        make(tmp_path)


def test_command_line(tmp_path, capsys):
    from peftlab.models.vision.pretrain import main

    chosen = TINY["resnet"] | FAST | {"steps": 2}
    flags = [part for key, value in chosen.items()
             for part in (f"--{key.replace('_', '-')}", str(value))]  # fmt: skip
    command = ["--out", str(tmp_path / "out"), *flags]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert re.fullmatch(r"(\w+\t[01]\.\d{3}\n){8}", shown.out)
    assert "steps/s" in shown.err
    assert (tmp_path / "out-work/checkpoints/step-000000002").is_dir()
    assert main(command) == 2
    assert "FOLDER-EXISTS" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "new"), "--model", "alexnet"]) == 2
