"""A made-up ``window.json``, with the tables as the engine makes them."""

import numpy as np

from peftlab.core.seeds import stream
from peftlab.engine.window.summary import choices, compare_bases, trained_table, width_table

STEPS = [0, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 160, 200, 240]
BAR = 0.8


def bump(peak, wide, high=1.0):
    """Return a rate that rises to ``high`` at step ``peak`` and falls again."""
    steps = np.array(STEPS, dtype=float)
    return np.round(high * np.exp(-(((steps - peak) / wide) ** 2)), 4)


def unit(base, attack, variant, seed, *, peak=30.0, wide=20.0, high=1.0, control=False, asr=0.99):
    """Return one unit; its trajectory stays up where the single step falls."""
    rng = stream(seed, "tests/window", base, attack, variant)
    tpr = bump(peak + float(rng.normal(0, 4)), wide, high)
    path = np.maximum.accumulate(tpr) * 0.97
    scores = {}
    for name, rate in (("gap", tpr), ("max_prob", 0.9 * tpr), ("trajectory", path)):
        auroc = np.round(0.5 + rate / 2, 4)
        fpr = np.round(0.05 + 0.01 * rng.normal(size=len(STEPS)).clip(-2, 2), 4)
        scores[name] = {
            "auroc": auroc.tolist(), "tpr_05": rate.tolist(), "fpr_05": fpr.tolist(),
            "tpr_01": (rate / 2).tolist(), "fpr_01": (fpr / 5).tolist(),
        }  # fmt: skip
    falling = 0.5 + 0.45 * np.exp(-np.array(STEPS) / 60)
    return {
        "id": f"{base}{attack}{variant}{seed}", "base": base, "attack": attack,
        "variant": variant, "seed": seed, "control": control, "steps": STEPS, "ca": 0.81,
        "asr": 0.3 if control else asr, "n_clean": 900, "n_triggered": 450, "n_calibration": 400,
        "confidence": {
            "clean": falling.round(4).tolist(),
            "triggered": np.minimum(1, falling + 0.2 * tpr).round(4).tolist(),
        },
        **scores,
    }  # fmt: skip


def units(bases=("none", "full"), attacks=("badnets", "insent"), variants=("lora", "all"),
          seeds=(0, 1, 2), control=True):  # fmt: skip
    """Return units whose windows grow from base to base."""
    found = []
    for i, base in enumerate(bases):
        for attack in (*attacks, *(["control"] if control else [])):
            for k, variant in enumerate(variants):
                high = 0.3 if attack == "control" else 1.0
                wide = 15.0 + 12 * i + 3 * k
                found += [
                    unit(base, attack, variant, seed, wide=wide, high=high,
                         control=attack == "control")
                    for seed in seeds
                ]  # fmt: skip
    return found


def guards(base="full", attacks=("badnets", "insent", "synrule"), rate=0.9, chosen=True):
    """Return the rows of one guard, the same rate everywhere."""
    ends = {"mean": rate, "min": rate - 0.1, "max": rate + 0.1}
    return [
        {
            "base": base, "attack": attack, "control": False, "guard": "lora", "looks": [5, 20],
            "passes": 3, "n": 3, "tpr_05": ends, "tpr_01": ends, "fpr_05": ends, "auroc": ends,
            "chosen": chosen,
        }
        for attack in attacks
    ]  # fmt: skip


def results(measured=None, **changes):
    """Return the content of a ``window.json``."""
    measured = units() if measured is None else measured
    return {
        "schema": "peftlab.window/1",
        "name": "made-up",
        "question": "Does pre-training widen the window?",
        "created": "2026-11-20T12:00:00+00:00",
        "versions": {"peftlab": "0.1.0"},
        "machine": {"cpus": 2},
        "recipe": {"name": "made-up", "steps": STEPS, "bar": BAR},
        "data": {"made-up": {"n_train": 10, "n_dev": 10, "n_test": 10, "source": "generated"}},
        "trained": trained_table(measured),
        "table": width_table(measured, BAR),
        "compare": compare_bases(measured, BAR),
        "choices": choices(measured, BAR),
        "units": measured,
        "cost": {},
        "failures": [],
        **changes,
    }
