"""Leak against utility: what each defence takes from an attacker, and what it costs the publisher.

Two attackers read each defended set of adapters, on concepts that they have not seen: a naive one
whose bank is undefended, and an adaptive one whose bank was made with the same defence. The
adaptive figures are the honest ones: a defence that only surprises the attacker is no defence.

Utility: mean loss of the adapters, over fixed noise that none was trained with, on their own
training examples and on held-out ones of their concept. ``gain_kept`` is the share of the
undefended gain over the bare base on the training examples: what adapters of a handful of images
are made for. On held-out ones they may be worse than the base, so no gain is counted there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.audits.size import splits
from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.chance import chance
from peftlab.audits.size.defences import (
    DEFENCES,
    RETRAINED,
    DefenceOptions,
    epsilon,
    with_clipped_spectrum,
    with_noise,
    with_one_norm,
)
from peftlab.audits.size.evaluate import score, short
from peftlab.audits.size.features import DEFAULT
from peftlab.audits.size.leak import entropy_bits
from peftlab.audits.size.prediction import SCHEMA
from peftlab.audits.size.table import Table, table_of
from peftlab.core.errors import ConfigError, suggest

if TYPE_CHECKING:
    from peftlab.audits.size.defences import Factors
    from peftlab.audits.size.farm.recipe import FarmOptions
    from peftlab.audits.size.farm.run import Farm

HEADS = ("vote", "frobenius", "ridge", "lda")
BITS = "lda"  # the head whose guesses give the bits: of these, it reads most
NONE = "none"
Progress = Callable[[int, int, str], None]


def defend(
    options: FarmOptions, defences: Sequence[str] = DEFENCES,
    strength: DefenceOptions | None = None, *, train: int | None = None, repeats: int = 10,
    seed: int = 42, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure defences on a farm, which is made here.

    Args:
        options: recipe of the undefended adapters.
        defences: some of ``DEFENCES``.
        strength: how strong they are.
        train: concepts that the attacker knows, see ``splits.by_name``.
        repeats: random splits.
        seed: of splits and of the noise.
        progress: called with (done, total, what).

    Returns:
        ``defences``: one row each, ``none`` first, with ``naive`` and ``adaptive`` (MAE by head),
        ``accuracy``, ``bits``, ``loss`` (held-out), ``loss_seen``, ``gain_kept``; ``chance``;
        ``base_loss``, ``base_loss_seen``.

    Raises:
        ConfigError: ``SIZE-DEFENCE``.
        RunFailed: ``FARM-LOSS``.
    """
    from peftlab.audits.size.farm.run import run_farm

    for name in defences:
        if name not in DEFENCES:
            raise ConfigError(
                f"there is no defence {name!r}", code="SIZE-DEFENCE", fix=suggest(name, DEFENCES)
            )
    chosen = strength or DefenceOptions()
    farms = 1 + sum(name in RETRAINED for name in defences)
    made = 0

    def tell(done: int, total: int, what: str) -> None:
        if progress is not None:
            progress(made * total + done, farms * total, what)

    plain = run_farm(options, progress=lambda done, total, _: tell(done, total, "undefended"))
    bench = _Bench(plain, train, repeats, seed)
    rows = [bench.row(NONE, plain.factors(), {})]
    for name in defences:
        if name in RETRAINED:
            made += 1
            again = retrained(options, name, chosen)
            farm = run_farm(again, progress=lambda d, t, _, name=name: tell(d, t, name))  # type: ignore[misc]
            factors: Factors = farm.factors()
        else:
            factors = changed(plain.factors(), name, chosen, seed)
        rows.append(bench.row(name, factors, setting(options, name, chosen)))
    return {
        "schema": SCHEMA, "kind": "defend", "heads": list(HEADS), "bits_head": BITS,
        "defences": rows, "chance": {k: short(v) for k, v in bench.chance.items()},
        "most_bits": short(bench.most_bits), "base_loss": short(bench.base_loss),
        "base_loss_seen": short(bench.base_seen),
        "recipe": plain.recipe(), "concepts": options.concepts, "adapters": len(plain.jobs),
        "train": bench.train, "repeats": repeats, "seed": seed, "delta": 1e-5,
    }  # fmt: skip


def retrained(options: FarmOptions, name: str, strength: DefenceOptions) -> FarmOptions:
    """Return the recipe of the adapters with a defence that works while training."""
    values = options.model_dump()
    if name == "flip":
        values["augment"] = "flip" if options.backbone == "tiny-denoiser" else "drop"
    else:
        values |= {"dp_clip": strength.dp_clip, "dp_noise": strength.dp_noise}
    return type(options)(**values)


def changed(factors: Factors, name: str, strength: DefenceOptions, seed: int) -> Factors:
    """Return adapters with a defence that works on finished weights."""
    if name == "noise":
        return with_noise(factors, strength.noise, seed)
    if name == "clip":
        return with_clipped_spectrum(factors, strength.clip)
    return with_one_norm(factors)


def setting(options: FarmOptions, name: str, strength: DefenceOptions) -> dict[str, Any]:
    """Return what a defence was set to, with epsilon for DP-SGD on the largest set."""
    if name == "dp":
        most = max(options.sizes)
        seen = -(-options.steps * options.batch // most)
        return {
            "dp_clip": strength.dp_clip, "dp_noise": strength.dp_noise,
            f"epsilon_{most}": short(epsilon(strength.dp_noise, seen)),
        }  # fmt: skip
    return {name: getattr(strength, name)} if name in {"noise", "clip"} else {}


class _Bench:
    """Measures sets of adapters of one farm."""

    def __init__(self, plain: Farm, train: int | None, repeats: int, seed: int) -> None:
        from peftlab.audits.size.farm.utility import Utility

        self.plain, self.utility = plain, Utility(plain)
        self.sizes, self.names = np.array(plain.sizes), plain.names
        self.table = self._table(plain.factors())
        self.cuts = splits.by_name(plain.names, train, repeats, seed)
        self.train = len({plain.names[i] for i in self.cuts[0][0]})
        self.chance = chance(self.sizes)
        self.most_bits = entropy_bits(np.unique(self.sizes, return_counts=True)[1])
        self.base_loss, self.base_seen = self.utility.held_out(None), self.utility.seen(None)
        self.gain = self.base_seen - self.utility.seen(plain.factors())

    def _table(self, factors: Factors) -> Table:
        scale = self.plain.options.scale
        bank = SpectraBank.from_factors(factors, self.plain.sizes, self.plain.names, scale)
        return table_of(bank, DEFAULT)

    def row(self, name: str, factors: Factors, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a set of defended adapters leaks and how well it works."""
        table = self._table(factors)
        naive = self._scores(self.table, table)
        adaptive = self._scores(table, table)
        seen = self.utility.seen(factors)
        return {
            "defence": name, "setting": dict(settings),
            "naive": {head: short(found.mae) for head, found in naive.items()},
            "adaptive": {head: short(found.mae) for head, found in adaptive.items()},
            "accuracy": short(adaptive[BITS].accuracy), "bits": short(adaptive[BITS].bits),
            "naive_bits": short(naive[BITS].bits),
            "loss": short(self.utility.held_out(factors)), "loss_seen": short(seen),
            "gain_kept": short((self.base_seen - seen) / self.gain) if self.gain > 0 else None,
        }  # fmt: skip

    def _scores(self, bank: Table, targets: Table) -> dict[str, Any]:
        """Return scores of heads that learn from one table and are asked about the other."""
        count = len(bank)
        both = Table(np.concatenate([bank.values, targets.values]), bank.names, bank.widths)
        names = [*self.names, *self.names]
        cuts = [(train, test + count) for train, test in self.cuts]
        for train, test in cuts:
            splits.check(names, train, test)
        sizes = np.concatenate([self.sizes, self.sizes])
        return {head: score(head, both, sizes, names, cuts) for head in HEADS}
