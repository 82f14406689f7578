"""The two small image models: a ViT and a ResNet, both stock ``transformers`` classifiers.

Their one linear head holds a logit for every value of every factor of the generated images, side
by side; ``id2label`` names them (``shape: disc``). A new task draws a new head over the same body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from peftlab.core.seeds import derive
from peftlab.models.vision.images import FACTORS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Kind = Literal["vit", "resnet"]
# The stem of a stock ResNet divides the side by four: small pictures are enlarged for it.
INPUT_SIDE: dict[Kind, int] = {"vit": 32, "resnet": 64}
MEAN = SPREAD = 0.5  # pixels in 0..1 become -1..1
_QUERY_VALUE = ("q_proj", "v_proj", "query", "value")  # transformers renamed them in version 5


def label_names() -> list[str]:
    """Return the name of every logit, factor by factor.

    Examples:
        >>> label_names()[0], len(label_names())
        ('shape: disc', 38)
    """
    return [f"{factor}: {value}" for factor, values in FACTORS.items() for value in values]


def _config(kind: Kind, width: int, depth: int) -> Any:
    from transformers import ResNetConfig, ViTConfig

    names = dict(enumerate(label_names()))
    numbers = {name: number for number, name in names.items()}
    if kind == "vit":
        return ViTConfig(
            image_size=INPUT_SIDE[kind], patch_size=4, hidden_size=width,
            num_hidden_layers=depth, num_attention_heads=max(1, width // 64),
            intermediate_size=4 * width, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, id2label=names, label2id=numbers,
        )  # fmt: skip
    return ResNetConfig(
        embedding_size=width, hidden_sizes=[width * 2**stage for stage in range(4)],
        depths=[depth] * 4, layer_type="basic", id2label=names, label2id=numbers,
    )  # fmt: skip


def build_model(kind: Kind, *, width: int, depth: int, seed: int) -> PreTrainedModel:
    """Return a randomly initialised model with one logit for every value of every factor.

    Args:
        kind: ``vit`` or ``resnet``.
        width: of the layers; for a ResNet that of the first of four stages, which double it.
        depth: layers; for a ResNet basic blocks a stage.
        seed: of the weights.
    """
    import torch
    from transformers import ResNetForImageClassification, ViTForImageClassification

    family = ViTForImageClassification if kind == "vit" else ResNetForImageClassification
    with torch.random.fork_rng(devices=[]):  # the library draws from the global generator
        torch.manual_seed(derive(seed, "vision/init"))
        return family(_config(kind, width, depth))


def image_processor(side: int) -> Any:
    """Return the stock processor that makes pictures of any size fit: resize, then -1..1."""
    from transformers import ViTImageProcessor

    from peftlab.models.load import quiet

    with quiet():  # it says at length that it does without torchvision
        return ViTImageProcessor(
            size={"height": side, "width": side},
            image_mean=[MEAN] * 3, image_std=[SPREAD] * 3, resample=2,
        )  # fmt: skip


def to_input(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Return what the stock processor makes of square pictures, without a loop over them.

    Only enlarging agrees with it, to one step of 255 before the scaling.

    Args:
        pixels: (n, s, s, 3) uint8, s at most ``side``.
        side: of the model's input.

    Returns:
        (n, 3, side, side) float32 from -1 to 1.
    """
    from torch.nn.functional import interpolate

    values = pixels.permute(0, 3, 1, 2).float()
    if values.shape[-1] != side:
        values = interpolate(values, size=(side, side), mode="bilinear", align_corners=False)
    return (values / 255.0 - MEAN) / SPREAD


def lora_targets(model: torch.nn.Module) -> list[str]:
    """Return the module names that LoRA is usually put on: query and value, or all convolutions.

    Plain names, as the gate for adapters asks.
    """
    import torch

    ends = {name.rpartition(".")[2]: module for name, module in model.named_modules()}
    found = [name for name in _QUERY_VALUE if isinstance(ends.get(name), torch.nn.Linear)]
    if found:
        return found
    return sorted(name for name, module in ends.items() if isinstance(module, torch.nn.Conv2d))
