"""Several processes that train one model together: ``accelerate launch`` or ``torchrun``.

Each computes its share of every batch; the gradients are summed. Weights start equal and get equal
updates, so nothing else is exchanged. Alone, nothing of this is imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Team:
    """This process among ``size`` of them; ``rank`` 0 writes the files."""

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> slice:
        """Return which of n rows are this process's; shares differ by at most one row."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def add(self, tensors: list[torch.Tensor]) -> None:
        """Sum each tensor over all processes, in place; they travel as one."""
        if self.size > 1:
            import torch
            import torch.distributed as dist

            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()


def join_team(device: str) -> Team:
    """Return this process's place; alone unless a launcher started several.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Team()
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    return Team(state.process_index, state.num_processes)
