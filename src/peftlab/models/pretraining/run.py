"""The training loop that all objectives share: it resumes to the step, and tells how it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.core.errors import ConfigError, RunFailed
from peftlab.core.seeds import derive, stream
from peftlab.models.pretraining.checkpoint import Checkpoint, save_checkpoint
from peftlab.models.pretraining.objective import Objective, Questions
from peftlab.models.pretraining.optimisers import make_optimisers, read_state, write_state
from peftlab.models.pretraining.options import PretrainOptions, learning_rate
from peftlab.models.pretraining.team import Team
from peftlab.models.pretraining.windows import Windows
from peftlab.nn.loop import eager_attention
from peftlab.nn.text import has_fast_bf16

if TYPE_CHECKING:
    import torch


@contextmanager
def _drawing_from(device: torch.device, *path: int) -> Iterator[None]:
    """Let torch draw from a stream of its own: dropout and sampling are a function of the step."""
    import torch

    seed, *rest = path
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "pretrain/dropout", *rest))
        yield


@dataclass
class Run:
    """A training run in memory: what moves while it goes on.

    Attributes:
        objective: what is asked.
        options: how it trains.
        model: on its device.
        windows: the text.
        identity: what must agree for a checkpoint to belong to this run.
        team: the processes that share the work.
        curve: loss of every step so far; its length is the number of steps done.
    """

    objective: Objective
    options: PretrainOptions
    model: torch.nn.Module
    windows: Windows
    identity: dict[str, Any]
    team: Team = field(default_factory=Team)
    curve: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        wanted = self.options.precision
        self.bf16 = wanted == "bf16" or (wanted == "auto" and has_fast_bf16(self.device.type))
        self.optimisers = make_optimisers(self.model, self.options)

    def advance(self) -> None:
        """Do one step and append its loss to ``curve``.

        Raises:
            RunFailed: ``LOSS-NONFINITE``.
        """
        import torch

        step, options = len(self.curve), self.options
        rng = stream(options.seed, "pretrain/mask", step)
        whole = self.objective.questions(
            self.windows.batch_at(step), self.windows.form, rng, options
        )
        for optimiser in self.optimisers:
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, options)
        self.model.train()
        with _drawing_from(self.device, options.seed, step, self.team.rank):
            loss = self._backward(whole)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.team.add([loss, *gradients])
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.curve.append(float(loss))
        if not np.isfinite(self.curve[-1]):
            raise RunFailed(
                f"the loss of step {step} is not finite",
                code="LOSS-NONFINITE",
                fix="choose a smaller learning rate or precision fp32",
            )

    def _backward(self, whole: Questions) -> torch.Tensor:
        """Add up the gradients of this process's share; return its share of the loss."""
        import torch

        windows, asked = len(whole.inputs), whole.asked
        mine = whole.part(self.team.share(windows))
        total = torch.zeros((), device=self.device)
        for number in range(self.options.accumulate):
            rows = Team(number, self.options.accumulate).share(len(mine.inputs))
            if rows.start == rows.stop:
                continue
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                loss = self.objective.loss(self.model, mine.part(rows), asked, windows)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def state(self) -> Checkpoint:
        """Return everything that a later process needs to go on."""
        import torch

        number, place = divmod(len(self.curve), self.windows.steps_per_pass)
        facts = {
            "identity": self.identity,
            "random numbers": {"seed": self.options.seed, "made from": "seed and step"},
            "cursor": {"pass": number, "batch": place},
        }
        return Checkpoint(
            len(self.curve),
            dict(self.model.named_parameters()),
            read_state(self.model, self.optimisers),
            torch.tensor(self.curve, dtype=torch.float64),
            facts,
        )

    def restore(self, state: Checkpoint) -> None:
        """Take over the state of a checkpoint.

        Raises:
            ConfigError: ``PRETRAIN-OTHER``, it belongs to another run.
        """
        import torch

        found = state.facts.get("identity")
        if found != self.identity:
            raise ConfigError(
                "the work folder holds checkpoints of another run",
                code="PRETRAIN-OTHER",
                got=found,
                allowed=self.identity,
                fix="choose another work folder, or remove that one",
            )
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(state.model[name])
        write_state(self.model, self.optimisers, state.optimiser)
        self.curve = state.curve.tolist()


def train(run: Run, folder: Path, progress: Callable[[str], None]) -> None:
    """Train to the last step, writing checkpoints on the way.

    Args:
        run: fresh or restored; ends fully trained.
        folder: of the checkpoints.
        progress: called with a line of text now and then.
    """
    options, begun = run.options, time.monotonic()
    first, saved = len(run.curve), time.monotonic()
    with eager_attention(run.model, run.device):
        while len(run.curve) < options.steps:
            run.advance()
            now, done = time.monotonic(), len(run.curve)
            last = done == options.steps
            if done % options.log_every == 0 or last:
                speed = (done - first) / max(1e-9, now - begun)
                progress(
                    f"step {done}/{options.steps}  loss {np.mean(run.curve[-100:]):.3f}  "
                    f"{speed * options.batch * options.length:,.0f} tokens/s  "
                    f"{(options.steps - done) / speed / 60:.1f} min left"
                )
            if run.team.rank == 0 and (last or now - saved >= options.checkpoint_minutes * 60):
                save_checkpoint(folder, run.state())
                saved = now


def examine(run: Run, windows: Windows, *, count: int = 400) -> float:
    """Return the loss in nats per asked token on ``count`` windows from random places."""
    import torch

    rng = stream(windows.seed, "pretrain/held-out")
    exam = run.objective.exam(windows.sample(count), windows.form, rng)
    run.model.eval()
    with torch.no_grad():
        total = sum(
            run.objective.exam_loss(run.model, exam.part(slice(start, start + 50)))
            for start in range(0, count, 50)
        )
    return total / max(1, exam.asked)
