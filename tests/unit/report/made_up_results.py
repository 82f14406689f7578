"""Synthetic results: every number in here is made up by formula, none was measured."""

import numpy as np

from peftlab.core.seeds import stream

STRENGTH = {"badnets": 6.0, "insent": 4.5, "synattack": 0.6, "ripples": 5.0, "lwp": 3.0}
REASON = "no defence in this cell"


def scores_of(cell):
    """Return made-up clean and triggered scores of one cell."""
    draw = stream(cell["seed"], "report-test", cell["id"])
    shift = 0.0 if cell["control"] else STRENGTH.get(cell["attack"], 2.0)
    shift *= 0.4 if cell["defence"] == "weak" else 1.0
    return draw.normal(0, 1, 700), draw.normal(shift, 1.2, 350)


def arrays_of(cell):
    clean, triggered = scores_of(cell)
    steps = [0, 10, 20, 30, 40, 60, 80, 120, 160]
    falling = [3.0 * 0.985**s for s in steps]
    strength = 1 if cell["control"] else STRENGTH.get(cell["attack"], 2.0)
    return {
        "clean_scores": clean.tolist(),
        "triggered_scores": triggered.tolist(),
        "threshold": 1.64,
        "clean_p": None,
        "triggered_p": None,
        "trajectory": {
            "steps": steps,
            "series": [
                {
                    "name": name,
                    "clean_mean": falling,
                    "triggered_mean": [f + strength * 0.3 * np.sin(s / 40) for f, s in
                                       zip(falling, steps, strict=True)],
                    "auroc": [0.5 + 0.45 * np.sin(s / 40) for s in steps],
                }
                for name in ("head-frozen LoRA", "all weights")
            ],
        } if cell["defence"] == "psim" else None,
    }  # fmt: skip


def make_cell(attack, tuner, defence, seed, control):
    name = f"{attack}-{tuner}-{defence}-{seed}{'-control' if control else ''}"
    cell = {
        "id": name, "base": "builtin:encoder", "data": "reviews", "attack": attack,
        "tuner": tuner, "defence": defence, "seed": seed, "control": control,
    }  # fmt: skip
    draw = stream(seed, "report-test-metrics", attack, tuner, str(control))
    asr = 0.06 + 0.02 * draw.random() if control else 0.99 - 0.03 * draw.random()
    ca = 0.86 - 0.01 * draw.random()
    metrics = {"ca": ca, "asr": asr, "n_clean": 700, "n_triggered": 350}
    guard = ("ca_def", "asr_def", "fpr", "tpr", "auroc", "tpr_at_01", "coverage")
    reasons = {}
    if defence == "none":
        metrics |= dict.fromkeys(guard)
        reasons = dict.fromkeys(guard, REASON)
    else:
        clean, triggered = scores_of(cell)
        fpr, tpr = float((clean > 1.64).mean()), float((triggered > 1.64).mean())
        cut = np.quantile(clean, 0.99)
        metrics |= {
            "fpr": fpr, "tpr": tpr, "ca_def": ca * (1 - fpr), "asr_def": asr * (1 - tpr),
            "auroc": float((triggered[:, None] > clean).mean()),
            "tpr_at_01": float((triggered > cut).mean()), "coverage": 1 - fpr,
        }  # fmt: skip
    cell["metrics"] = metrics
    cell["intervals"] = {
        key: [max(value - 0.02, 0), min(value + 0.02, 1)]
        for key, value in metrics.items()
        if value is not None and not key.startswith("n_")
    }
    cell["reasons"] = reasons
    cell["cost"] = {
        "train_seconds": 20.0 + seed,
        "fit_seconds": None if defence == "none" else 12.5,
        "score_ms_per_text": None if defence == "none" else 3.1,
        "passes_per_text": None if defence == "none" else 14,
    }
    return cell


def make_results(
    attacks=("badnets", "insent", "synattack"),
    tuners=("lora", "prefix"),
    defences=("none", "psim", "weak"),
    seeds=(0, 1, 2),
    control=True,
):
    cells = [
        make_cell(attack, tuner, defence, seed, is_control)
        for attack in attacks
        for tuner in tuners
        for defence in defences
        for seed in seeds
        for is_control in ((False, True) if control else (False,))
    ]
    return {
        "schema": "peftlab.results/1",
        "name": "synthetic-grid",
        "question": "Does a word or sentence trigger survive LoRA tuning, and does PSIM catch it?",
        "created": "2026-01-02T03:04:05Z",
        "versions": {"peftlab": "0.1.0", "python": "3.11.2", "numpy": "2.3.0"},
        "machine": {"cpu": "made-up CPU", "cores": 2, "memory_gib": 8.0},
        "recipe": {
            "name": "synthetic-grid",
            "seeds": list(seeds),
            "attack": [{"name": name, "options": {"rate": 0.1}} for name in attacks],
            "defence": [
                {"name": name, "options": {"alpha": 0.05}} for name in defences if name != "none"
            ],
        },
        "cells": cells,
        "data": {
            "reviews": {
                "n_train": 2000, "n_dev": 400, "n_test": 700, "source": "generated",
                "label_names": ["negative", "positive"],
                "notes": ["3 duplicate texts were left out of the test split"],
            }
        },
    }  # fmt: skip


# ---------------------------------------------------------------------- a bench of many defences

ATTACKS = {  # how strongly each made-up attack shows in a score
    "badnets": 5.0, "insent": 4.5, "synrule": 1.5, "style-rule": 1.2, "lws-table": 2.2,
    "soft": 0.9, "entangled": 2.6, "ripple": 4.8, "lwp": 3.4, "ep": 4.1, "sos": 3.9,
    "neuba": 2.4, "por": 2.8, "uor": 1.9, "bite": 1.6, "addsent": 4.2, "trigger-word": 4.7,
    "imported": 2.0, "orderbkd": 0.7, "latent": 0.4,
}  # fmt: skip
DEFENCES = {  # kind, and how much of that a defence sees
    "none": ("", 0), "onion": ("input", 0.55), "strip": ("input", 0.4), "rap": ("input", 0.5),
    "psim": ("input", 1.0), "psim-official": ("fixed", 0.7), "mdp": ("input", 0.99),
    "lmsanitator": ("input", 0.35), "spectral": ("input", 0.3), "paraphrase": ("input", 0.45),
    "fine-pruning": ("tuning", 0.3), "pure": ("tuning", 0.55), "cube": ("data", 0),
    "bki": ("data", 0), "dbs": ("model", 0.8),
}  # fmt: skip
NO_FILTER = "it filters training sets, and here the training set is clean"
NO_HEAD = "it reads the answers of the base's own head, and this attack releases none"


def bench_cell(attack, tuner, defence, seed, control):
    """Return one cell of ``make_bench``."""
    kind, eye = DEFENCES[defence]
    cell = {
        "id": f"{attack}-{tuner}-{defence}-{seed}{'-control' if control else ''}",
        "base": "builtin:encoder", "data": "reviews", "attack": attack, "tuner": tuner,
        "defence": defence, "seed": seed, "control": control, "metrics": {}, "intervals": {},
        "reasons": {}, "cost": {}, "not_applicable": None,
    }  # fmt: skip
    if kind == "data":
        return cell | {"not_applicable": NO_FILTER}
    if kind == "model" and attack in {"neuba", "por", "uor"} and not control:
        return cell | {"not_applicable": NO_HEAD}
    draw = stream(seed, "bench-test", attack, tuner, str(control))
    own = stream(seed, "bench-test", attack, defence, str(control))
    flips = 0.05 + 0.04 * stream(seed, "bench-test", attack).random()
    took = attack != "latent" and not control
    asr = 1.0 - 0.08 * draw.random() if took else flips + 0.02 * draw.random()
    ca = 0.87 - 0.02 * draw.random()
    cell["metrics"] = known = {"ca": ca, "asr": asr, "n_clean": 700, "n_triggered": 350}
    strength = 0.0 if control else ATTACKS[attack] * eye
    if kind in {"input", "fixed"}:
        tpr = float(np.clip(1 - 0.95 * np.exp(-0.55 * strength) + own.normal(0, 0.03), 0, 1))
        fpr = float(np.clip(0.05 + own.normal(0, 0.008), 0, 1))
        alpha = None if kind == "fixed" else 0.05
        known |= {
            "tpr": tpr, "fpr": fpr, "alpha": alpha, "ca_def": ca * (1 - fpr), "coverage": 1 - fpr,
            "asr_def": asr * (1 - tpr), "auroc": float(np.clip(0.5 + 0.5 * tpr, 0, 1)),
            "tpr_at_05": tpr, "fpr_at_05": fpr,
        }  # fmt: skip
        cell["cost"] = {
            "fit_seconds": 12.5,
            "score_ms_per_text": 3.1 / max(eye, 0.1),
            "passes_per_text": 14,
        }
    if kind == "tuning":
        known |= {"ca_def": ca - 0.03, "asr_def": asr * (1 - eye) + own.normal(0, 0.02)}
        cell["cost"] = {"fit_seconds": 40.0}
    if kind == "model":
        score = float(own.normal(0.0 if control else 2.0, 1.0))
        known |= {"model_score": score, "model_flagged": int(score > 1.2)}
    return cell


def make_bench(attacks=tuple(ATTACKS), defences=tuple(DEFENCES), tuners=("lora",),
               seeds=(0, 1, 2), chosen_on=("badnets",), control=True):  # fmt: skip
    """Return the results of a made-up threat bench, with pairs that make no sense."""
    made = make_results(("badnets",), ("lora",), ("none",), (0,))
    made["name"], made["question"] = "made-up-bench", "Which defence finds triggers unseen so far?"
    made["recipe"] = {"name": "made-up-bench", "seeds": list(seeds), "chosen_on": list(chosen_on)}
    made["cells"] = [
        bench_cell(attack, tuner, defence, seed, is_control)
        for attack in attacks
        for tuner in tuners
        for defence in defences
        for seed in seeds
        for is_control in ((False, True) if control else (False,))
    ]
    return made
