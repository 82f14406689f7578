"""Made-up banks: spectra that shrink with the size of the training set, with noise by concept."""

import numpy as np

from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.features import Shape


def make_bank(
    concepts=12, sizes=(1, 2, 3, 4, 5, 6), layers=4, rank=4, seed=0, noise=0.05, own=0.05,
    scale=1.0, recipe=None,
):  # fmt: skip
    """Return a bank; singular values fall as size^-0.3, times concept and adapter noise."""
    rng = np.random.default_rng(seed)
    shapes = {f"layers.{n}.q_proj": Shape(rank, 16, 24) for n in range(layers)}
    names = [f"concept-{c:02}" for c in range(concepts) for _ in sizes]
    label = np.array(list(sizes) * concepts)
    matrices = {}
    shared = np.repeat(rng.normal(size=concepts), len(sizes))
    for layer in shapes:
        for kind, power in (("A", 0.1), ("B", 0.3), ("BA", 0.3)):
            base = np.sort(rng.uniform(0.5, 2, size=rank))[::-1]
            by_concept = np.repeat(rng.normal(size=concepts), len(sizes)) + shared
            grown = -power * np.log(label) + noise * by_concept
            grown = grown[:, None] + own * rng.normal(size=(len(label), rank))
            stretch = 1.0 if kind == "A" else scale
            matrices[f"{layer}/{kind}"] = -np.sort(-stretch * base * np.exp(grown), axis=1)
    return SpectraBank(matrices, label, tuple(names), shapes, recipe or {"lr": 1e-3, "steps": 500})
