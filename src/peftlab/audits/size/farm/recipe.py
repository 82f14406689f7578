"""Options of a farm, and the words in which its recipe stands beside the adapters."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from peftlab.core.options import Options, option

Backbone = Literal["tiny-denoiser", "tiny-lm"]
Range = Literal["low", "medium", "high"]
SIZES: dict[Range, tuple[int, ...]] = {
    "low": (1, 2, 3, 4, 5, 6),
    "medium": (1, 10, 20, 30, 40, 50),
    "high": (1, 50, 100, 500),
}
FLAGS = (
    "backbone",
    "range",
    "concepts",
    "seed",
    "rank",
    "steps",
    "snapshots",
    "lr",
    "seeds",
    "augment",
)  # options of the command that have a flag of their own; the others are -o NAME=VALUE
USUAL_RATE = 1e-3
SHORT = {"tiny-denoiser": "denoiser", "tiny-lm": "lm"}


class FarmOptions(Options):
    """What to train: so many concepts, each in every size of a range."""

    backbone: Backbone = option("tiny-denoiser", "what is adapted", source="ours")
    range: Range = option(
        "low", "sizes: 1-6, 1-50 or 1-500", source="arXiv 2406.19395 (the last: to 1000 there)"
    )
    concepts: int = option(
        50, "micro data sets; each gives one adapter a size", source="arXiv 2406.19395, 6.1",
        ge=2, le=10_000,
    )  # fmt: skip
    seed: int = option(0, "seed of concepts, starts, order and noise", source="ours", ge=0)
    rank: int = option(4, "rank of every update", source="ours", ge=1, le=32)
    alpha: float = option(
        0, "numerator of the scale alpha / rank; 0: twice the rank", source="ours",
        ge=0, le=1024,
    )  # fmt: skip
    steps: int = option(500, "steps of each adapter", source="ours", ge=1, le=100_000)
    snapshots: tuple[int, ...] = option(
        (), "steps at which the adapters are kept too; empty: a quarter and a half of all",
        source="ours", max_length=20,
    )  # fmt: skip
    lr: float = option(USUAL_RATE, "learning rate, constant", source="ours", gt=0, le=1)
    batch: int = option(1, "examples a step", source="arXiv 2406.19395, tables 10 and 11",
                        ge=1, le=64)  # fmt: skip
    weight_decay: float = option(0.01, "of AdamW", source="torch's default", ge=0, le=10)
    seeds: Literal["same", "own"] = option(
        "same", "one start, order and noise for all adapters, or one each",
        source="arXiv 2406.19395, table 10 (seed 0 for all)",
    )  # fmt: skip
    augment: Literal["none", "flip", "drop"] = option(
        "none", "flip: images are mirrored half of the time; drop: words are hidden one in ten",
        source="arXiv 2406.19395, table 6 (flip); ours (drop)",
    )  # fmt: skip
    dp_clip: float = option(
        0, "largest norm of the gradient of one example; 0: no differential privacy",
        source="DP-SGD, arXiv 1607.00133", ge=0, le=1e6,
    )  # fmt: skip
    dp_noise: float = option(
        0, "deviation of the noise on the sum of gradients, in units of dp_clip",
        source="DP-SGD, arXiv 1607.00133", ge=0, le=1e3,
    )  # fmt: skip

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if any(not 0 < step < self.steps for step in self.snapshots):
            raise ValueError(f"snapshots are steps before the last one, {self.steps}")
        wrong = {"tiny-denoiser": "drop", "tiny-lm": "flip"}[self.backbone]
        if self.augment == wrong:
            raise ValueError(f"{wrong} does not fit {self.backbone}")
        if self.dp_noise and not self.dp_clip:
            raise ValueError("dp_noise needs dp_clip")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the numbers of examples that adapters are trained on."""
        return SIZES[self.range]

    @property
    def numerator(self) -> float:
        """Return the numerator of the scale."""
        return self.alpha or 2.0 * self.rank

    @property
    def scale(self) -> float:
        """Return s of the update s B A."""
        return self.numerator / self.rank

    @property
    def kept(self) -> tuple[int, ...]:
        """Return the steps at which adapters are kept, ascending, the last one included.

        Examples:
            >>> FarmOptions().kept
            (125, 250, 500)
        """
        early = self.snapshots or (self.steps // 4, self.steps // 2)
        return (*sorted({step for step in early if step}), self.steps)

    @property
    def config(self) -> str:
        """Return the name of the set as the public set has them, and what is not as usual.

        Examples:
            >>> FarmOptions().config, FarmOptions(rank=8, lr=2e-3, seeds="own").config
            ('low_4_denoiser', 'low_8_denoiser_lr0.002_own')
        """
        parts = [self.range, str(self.rank), SHORT[self.backbone]]
        parts += [f"lr{self.lr:g}"] * (self.lr != USUAL_RATE)
        parts += ["own"] * (self.seeds == "own") + [self.augment] * (self.augment != "none")
        return "_".join(parts + ["dp"] * (self.dp_clip > 0))

    def command(self) -> str:
        """Return the command that makes this farm, without what is default.

        Examples:
            >>> FarmOptions(concepts=40, seeds="own").command()
            'peftlab size farm --concepts 40 --seeds own --out BANK'
        """
        parts = []
        for name in type(self).model_fields:
            value, usual = getattr(self, name), type(self).model_fields[name].default
            if value != usual:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                flag = f"--{name}" if name in FLAGS else f"-o {name}="
                parts.append(f"{flag} {text}" if name in FLAGS else f"{flag}{text}")
        return " ".join(["peftlab size farm", *parts, "--out BANK"])

    def recipe(self, step: int, base_sha256: str) -> dict[str, Any]:
        """Return how the adapters of one snapshot were trained."""
        return {
            "backbone": self.backbone, "range": self.range, "rank": self.rank,
            "alpha": self.numerator, "lr": self.lr, "steps": step, "batch": self.batch,
            "weight_decay": self.weight_decay, "optimiser": "AdamW", "seeds": self.seeds,
            "seed": self.seed, "augment": self.augment, "dp_clip": self.dp_clip,
            "dp_noise": self.dp_noise, "base_sha256": base_sha256,
        }  # fmt: skip
