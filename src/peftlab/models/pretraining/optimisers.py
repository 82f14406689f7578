"""The optimisers of pre-training, and their state under the names of the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from peftlab.models.pretraining.options import PretrainOptions


def make_optimisers(
    model: torch.nn.Module, options: PretrainOptions
) -> list[torch.optim.Optimizer]:
    """Return the optimisers that together train every parameter.

    ``muon`` orthogonalises the updates of the weight matrices inside layers; embeddings, the
    output layer, norms and biases are left to AdamW. Its updates are scaled to the size of
    AdamW's, so both follow one learning rate (Liu et al. 2025, arXiv 2502.16982).
    """
    import torch

    adam: list[torch.nn.Parameter] = []
    muon: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and "layer" in name
        (muon if inside and options.optimiser == "muon" else adam).append(parameter)
    on_gpu = next(model.parameters()).device.type == "cuda"
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            adam, lr=options.rate, betas=(0.9, options.beta2), weight_decay=options.decay,
            fused=on_gpu,
        )
    ]  # fmt: skip
    if muon:
        made.append(
            torch.optim.Muon(
                muon, lr=options.rate, weight_decay=options.decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return made


def read_state(
    model: torch.nn.Module, optimisers: list[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    """Return the state tensors as ``NAME/KIND``."""
    names: dict[torch.Tensor, str] = {
        parameter: name for name, parameter in model.named_parameters()
    }
    return {
        f"{names[parameter]}/{kind}": value
        for optimiser in optimisers
        for parameter, state in optimiser.state.items()
        for kind, value in state.items()
    }


def write_state(
    model: torch.nn.Module,
    optimisers: list[torch.optim.Optimizer],
    state: dict[str, torch.Tensor],
) -> None:
    """Put back what ``read_state`` gave."""
    kinds: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        name, _, kind = key.rpartition("/")
        kinds.setdefault(name, {})[kind] = value
    owners = {p: o for o in optimisers for group in o.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        # AdamW keeps its step count on the CPU unless it is fused
        owners[parameter].state[parameter] = {
            kind: value if kind == "step" and parameter.device.type == "cpu"
            else value.to(parameter.device)
            for kind, value in kinds.get(name, {}).items()
        }  # fmt: skip
