"""The one way to load an image model: ``builtin:vision``, ``builtin:vision-resnet``, a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from peftlab.core.errors import InputRejected
from peftlab.core.seeds import derive
from peftlab.io.gate import check_model
from peftlab.models.load import PREFIX, UNTRAINED, pick_device, quiet, resolve

if TYPE_CHECKING:
    import torch


def load_vision(
    reference: str, n_classes: int, seed: int = 0, *, allow_poisoned: bool = False
) -> tuple[Any, Any]:
    """Return (image classifier in eval mode, image processor).

    The built-in models always get a new head, drawn from ``seed``; so does a folder whose head has
    another number of classes. Weights are float32, on the GPU where there is one.

    Args:
        reference: ``builtin:vision`` (the ViT), ``builtin:vision-resnet``, a folder or a hub id;
            with ``-random`` behind a built-in name or a folder, that architecture untrained.
        n_classes: C.
        seed: of a new head, and of all weights of an untrained model.
        allow_poisoned: let a marked red-team model in.

    Raises:
        ConfigError: ``BASE-BUILTIN``.
        InputRejected: from the gate, ``BASE-MISSING``, ``BASE-PROCESSOR``, ``BASE-LOAD``,
            ``BASE-WEIGHTS``.
    """
    place = reference.removesuffix(UNTRAINED)
    untrained = place != reference and (place.startswith(PREFIX) or os.path.isdir(place))  # noqa: PTH112
    folder = resolve(place if untrained else reference)
    check_model(folder, allow_poisoned=allow_poisoned)
    processor = _load_processor(folder)
    model = _build(folder, n_classes, seed, untrained=untrained, new=reference.startswith(PREFIX))
    return model.to(pick_device()).eval(), processor


def _load_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    try:
        with quiet():
            return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a hostile config can fail in any way
        raise InputRejected(
            f"{folder.name} has no image processor that loads",
            code="BASE-PROCESSOR",
            got=str(error).split("\n")[0][:200],
            fix="put preprocessor_config.json into the folder",
        ) from error


def _build(folder: Path, n_classes: int, seed: int, *, untrained: bool, new: bool) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification

    from peftlab.nn.heads import head_of, note_new_modules, reinit_head

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "vision/init"))
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            new = new or config.num_labels != n_classes
            if new:
                config.id2label = {number: f"LABEL_{number}" for number in range(n_classes)}
                config.label2id = {name: number for number, name in config.id2label.items()}
            if untrained:
                return AutoModelForImageClassification.from_config(config).float()
            model, report = AutoModelForImageClassification.from_pretrained(
                folder, config=config, use_safetensors=True, dtype=torch.float32,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
            head = {f"classifier.{name}" for name, _ in head_of(model).named_parameters()}
            _check_filled(folder, model, report, head)
        except InputRejected:
            raise
        except Exception as error:  # a hostile config can fail in any way
            raise InputRejected(
                f"{folder.name} does not load as an image classifier",
                code="BASE-LOAD",
                got=str(error).split("\n")[0][:300],
                fix="check that AutoModelForImageClassification.from_pretrained loads it",
            ) from error
        if new or head & set(report["missing_keys"]):
            reinit_head(model, seed)
            note_new_modules(model, head)
        return model


def _check_filled(folder: Path, model: Any, report: dict[str, Any], head: set[str]) -> None:
    """Refuse a body with gaps: the library would fill them at random. A head may be new."""
    body = {name for name, _ in model.named_parameters()} - head
    other_shape = {str(entry[0]) for entry in report["mismatched_keys"]}
    absent = body & (set(report["missing_keys"]) | other_shape)
    if absent:
        raise InputRejected(
            f"the weights of {folder.name} are not those of its config.json",
            code="BASE-WEIGHTS",
            got=f"{len(absent)} of {len(body)} tensors are missing, such as {min(absent)}",
            fix="download the folder again, weights and config.json together",
        )


def prepare(processor: Any, images: NDArray[np.uint8]) -> torch.Tensor:
    """Return images as the model takes them: (n, 3, side, side) float32.

    Args:
        processor: from ``load_vision``.
        images: (n, h, w) gray or (n, h, w, 3) colour, uint8.

    Raises:
        InputRejected: ``IMAGES-FORM``.
    """
    import torch

    colour = images.ndim == 4 and images.shape[3] == 3
    if images.dtype != np.uint8 or not (colour or images.ndim == 3) or not len(images):
        raise InputRejected(
            "these are not images",
            code="IMAGES-FORM",
            got=f"{images.dtype} {images.shape}",
            allowed="uint8 (n, height, width) or (n, height, width, 3), n at least 1",
            fix="bring them into this form first",
        )
    pictures = images if colour else np.repeat(images[..., None], 3, axis=3)
    made = processor(images=list(pictures), return_tensors="np", input_data_format="channels_last")
    return torch.from_numpy(np.asarray(made["pixel_values"], dtype=np.float32))
