"""Loading image models through the gate, tuning them, and LoRA on both families."""

import json
import shutil

import numpy as np
import pytest

from peftlab.core.errors import ConfigError, InputRejected

KINDS = ["vit", "resnet"]


def write_model(folder, kind):
    from peftlab.models.load import quiet
    from peftlab.models.vision.models import build_model, image_processor

    width = 32 if kind == "vit" else 8
    with quiet():
        build_model(kind, width=width, depth=1, seed=0).half().save_pretrained(folder)
        image_processor(32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    parent = tmp_path_factory.mktemp("builtin")
    names = {"vit": "vision", "resnet": "vision-resnet"}
    return {kind: write_model(parent / names[kind], kind) for kind in KINDS}


@pytest.fixture
def shelf(built, monkeypatch):
    monkeypatch.setattr("peftlab.models.load.BUILTIN", built["vit"].parent)


@pytest.fixture
def folder(built, tmp_path):
    return shutil.copytree(built["vit"], tmp_path / "model")


def load(*given, **more):
    from peftlab.models.vision.load import load_vision

    return load_vision(*given, **more)


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def code_of(call):
    with pytest.raises((InputRejected, ConfigError)) as caught:
        call()
    assert caught.value.fix
    return caught.value.code


def same(one, other):
    import torch

    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return {name: torch.equal(a, b) for (name, a), (_, b) in pairs}


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("name", ["builtin:vision", "builtin:vision-resnet"])
def test_a_built_in_model_brings_its_body_and_draws_its_head(name):
    import torch

    from peftlab.nn.heads import has_new_head

    model, processor = load(name, 3, 0)
    assert not model.training
    assert model.dtype == torch.float32
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert has_new_head(model)
    assert processor.size["height"] == 32
    assert all(same(model, load(name, 3, 0)[0]).values())
    other = same(model, load(name, 3, 1)[0])
    assert not all(equal for key, equal in other.items() if key.endswith("weight"))
    assert all(equal for key, equal in other.items() if not key.startswith("classifier"))


@pytest.mark.usefixtures("shelf")
def test_the_head_of_a_built_in_model_is_new_even_at_its_own_size():
    assert not same(load("builtin:vision", 38, 0)[0], load("builtin:vision", 38, 1)[0])[
        "classifier.weight"
    ]


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("name", ["builtin:vision-random", "builtin:vision-resnet-random"])
def test_the_random_twin_is_of_the_same_form_and_untrained(name):
    model = load(name, 3, 0)[0]
    trained = load(name.removesuffix("-random"), 3, 0)[0]
    assert [v.shape for v in model.state_dict().values()] == [
        v.shape for v in trained.state_dict().values()
    ]
    assert not all(same(model, load(name, 3, 1)[0]).values())
    assert all(same(model, load(name, 3, 0)[0]).values())


@pytest.mark.usefixtures("shelf")
def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="vision-resnet") as caught:
        load("builtin:visions", 2)
    assert caught.value.code == "BASE-BUILTIN"


@pytest.mark.usefixtures("shelf")
def test_the_text_loader_says_that_it_is_an_image_model():
    from peftlab.models.load import load_base

    with pytest.raises(InputRejected, match="load_vision") as caught:
        load_base("builtin:vision", 2)
    assert caught.value.code == "BASE-IMAGE"


def test_a_folder_keeps_a_head_of_the_right_size(folder):
    assert all(same(load(str(folder), 38, 0)[0], load(str(folder), 38, 1)[0]).values())
    assert load(f"{folder}-random", 2)[0].config.num_labels == 2


@pytest.mark.parametrize("changes", [{"hidden_size": 64}, {"num_hidden_layers": 2}])
def test_weights_of_another_model_are_refused(folder, changes):
    rewrite(folder / "config.json", **changes)
    assert code_of(lambda: load(str(folder), 3)) == "BASE-WEIGHTS"


@pytest.mark.parametrize(
    "changes",
    [{"model_type": "no-such"}, {"model_type": "bert"}, {"hidden_act": "x"}, {"patch_size": 0}],
)
def test_a_config_that_does_not_fit_is_refused(folder, changes):
    rewrite(folder / "config.json", **changes)
    assert code_of(lambda: load(str(folder), 3)) == "BASE-LOAD"


def test_a_folder_without_a_processor_is_refused(folder):
    (folder / "preprocessor_config.json").unlink()
    assert code_of(lambda: load(str(folder), 3)) == "BASE-PROCESSOR"


def test_code_from_elsewhere_is_refused_in_the_processor_too(folder):
    hook = {"auto_map": {"AutoImageProcessor": "evil/repo--code.Processor"}}
    rewrite(folder / "preprocessor_config.json", **hook)
    assert code_of(lambda: load(str(folder), 3)) == "BASE-CODE"


def test_gray_and_colour_are_prepared_alike(folder):
    from peftlab.models.vision.load import prepare

    _, processor = load(str(folder), 3)
    gray = np.arange(2 * 28 * 28, dtype=np.uint32).reshape(2, 28, 28).astype(np.uint8)
    made = prepare(processor, gray)
    assert made.shape == (2, 3, 32, 32)
    assert float(made.min()) >= -1
    assert float(made.max()) <= 1
    assert (made == prepare(processor, np.repeat(gray[..., None], 3, axis=3))).all()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 28, 28), np.float32), np.zeros((2, 28, 28, 4), np.uint8),
        np.zeros((28, 28), np.uint8), np.zeros((0, 28, 28), np.uint8),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(folder, images):
    from peftlab.models.vision.load import prepare

    assert code_of(lambda: prepare(load(str(folder), 3)[1], images)) == "IMAGES-FORM"


@pytest.mark.parametrize("kind", KINDS)
def test_lora_of_peft_wraps_trains_saves_and_comes_back(built, kind, tmp_path):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    from peftlab.models.vision.models import lora_targets
    from peftlab.nn.images import predict_images, train_images
    from peftlab.nn.loop import TrainPlan

    model, _ = load(str(built[kind]), 2, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules=lora_targets(model), modules_to_save=["classifier"]
    )
    wrapped = get_peft_model(model, config)
    draw = torch.Generator().manual_seed(0)
    labels = np.arange(32) % 2
    inputs = (
        torch.rand((32, 3, 32, 32), generator=draw) + torch.from_numpy(labels)[:, None, None, None]
    )
    log = train_images(wrapped, inputs, labels, TrainPlan(steps=30, lr=1e-2, batch=16), seed=0)
    assert np.mean(log.losses[-2:]) < 0.7 * log.losses[0]
    body = wrapped.get_base_model().state_dict()
    frozen = {name.replace(".base_layer", ""): value for name, value in body.items()}
    for name, value in before.items():  # frozen weights and running statistics did not move
        assert name.startswith("classifier") or torch.equal(value, frozen[name]), name
    logits = predict_images(wrapped, inputs)
    wrapped.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(str(built[kind]), 2, 9)[0], tmp_path / "adapter").eval()
    np.testing.assert_allclose(predict_images(again, inputs), logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_what_the_head_sees(built, kind):
    import torch

    from peftlab.nn.heads import head_of
    from peftlab.nn.images import image_features, predict_images

    model, _ = load(str(built[kind]), 3, 0)
    inputs = torch.linspace(-1, 1, 5 * 3 * 32 * 32).reshape(5, 3, 32, 32)
    seen = image_features(model, inputs)
    assert seen.shape == (5, 32 if kind == "vit" else 64)
    linear = next(m for m in head_of(model).modules() if isinstance(m, torch.nn.Linear))
    expected = linear(torch.from_numpy(seen).float()).detach().numpy()
    np.testing.assert_allclose(predict_images(model, inputs), expected, atol=1e-5)


def test_the_same_seed_trains_the_same_model_and_nan_stops_it(built):
    import torch

    from peftlab.core.errors import RunFailed
    from peftlab.nn.images import train_images
    from peftlab.nn.loop import TrainPlan

    inputs = torch.linspace(-1, 1, 12 * 3 * 32 * 32).reshape(12, 3, 32, 32)
    labels, plan = np.arange(12) % 3, TrainPlan(steps=3, lr=1e-3, batch=4)
    state = torch.random.get_rng_state()
    curves = []
    for _ in range(2):
        model, _ = load(str(built["resnet"]), 3, 0)
        curves.append(train_images(model, inputs, labels, plan, seed=0).losses)
    assert curves[0] == curves[1]
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(RunFailed, match="TRAIN-NONFINITE"):
        train_images(model, inputs * float("nan"), labels, plan, seed=0)
