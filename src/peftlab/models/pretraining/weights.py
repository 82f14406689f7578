"""Take over the weights of a model that was trained before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.io.gate import check_model
from peftlab.models.load import quiet


def take_over(model: Any, folder: Path) -> None:
    """Copy the weights of a saved folder into a model of the same kind and shape, in place.

    Args:
        model: freshly built.
        folder: as ``save_pretrained`` writes it; goes through the gate first.

    Raises:
        InputRejected: ``PRETRAIN-FROM``, or the codes of the gate.
    """
    import torch

    check_model(folder)
    try:
        with quiet():
            found, report = type(model).from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        theirs, ours = found.state_dict(), model.state_dict()
        wrong = sorted(set(report["missing_keys"]) & set(ours))
        wrong += [name for name, weight in ours.items() if theirs[name].shape != weight.shape]
    except (KeyError, ValueError, OSError, RuntimeError) as error:
        wrong = [str(error).split("\n")[0][:200]]
    if wrong:
        raise InputRejected(
            f"the weights in {folder.name} do not fit the model that is asked for",
            code="PRETRAIN-FROM",
            got=", ".join(wrong[:3]),
            fix="give the options of shape that it was made with",
        )
    model.load_state_dict({name: theirs[name] for name in ours})
