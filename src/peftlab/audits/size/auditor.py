"""The auditor: learns from a bank of labelled adapters, tells the size of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from peftlab.audits.size.bank import SpectraBank, broken
from peftlab.audits.size.bank_files import load, write_files
from peftlab.audits.size.chance import chance
from peftlab.audits.size.conformal import ALPHA, ConformalSets
from peftlab.audits.size.evaluate import SPLIT, Evaluation, evaluate
from peftlab.audits.size.features import DEFAULT, KINDS, Kind, Spectra, fit_to, read_spectra
from peftlab.audits.size.heads import make
from peftlab.audits.size.prediction import LayerVotes, Prediction
from peftlab.audits.size.recipe import look
from peftlab.audits.size.recipe_gate import RecipeGate
from peftlab.audits.size.references import scale_factors
from peftlab.audits.size.table import Table, row_table, table_of
from peftlab.audits.size.votes import Votes
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.io.files import new_folder, read_json, write_json

SCHEMA = "peftlab.size-auditor/1"
SETTINGS = "auditor.json"


class SizeAuditor:
    """Tells how many training examples an adapter was made from.

    Args:
        features: kinds of matrix: A, B, BA, and M (DoRA's magnitudes).
        head: name of a head, see ``heads.ABOUT``.
        alpha: share of new concepts that a prediction set may miss.

    Raises:
        ConfigError: ``SIZE-HEAD``, ``SIZE-FEATURES`` or ``SIZE-ALPHA``.
    """

    def __init__(
        self, features: Sequence[Kind] = DEFAULT, head: str = "vote", alpha: float = ALPHA
    ) -> None:
        if not features or len(set(features)) < len(features) or set(features) - set(KINDS):
            raise ConfigError(
                "features are not different kinds of matrix", code="SIZE-FEATURES",
                got=", ".join(features), allowed=", ".join(KINDS), fix="for example A, B, BA",
            )  # fmt: skip
        if not 0 < alpha < 1:
            raise ConfigError(
                "alpha is not a share", code="SIZE-ALPHA", got=alpha, allowed="above 0, below 1",
                fix="0.1 gives sets that hold the size in 90 % of new concepts",
            )  # fmt: skip
        make(head)
        self.features, self.head, self.alpha = tuple(features), head, alpha

    def fit(self, bank: SpectraBank) -> Self:
        """Learn from a bank.

        Raises:
            NotApplicable: ``SIZE-FEATURES`` if the bank lacks a kind of matrix.
        """
        missing = [kind for kind in self.features if kind not in bank.kinds]
        if missing:
            raise NotApplicable(
                f"the bank has no {' and no '.join(missing)}", code="SIZE-FEATURES",
                allowed=", ".join(bank.kinds), fix="choose other features, or another bank",
            )  # fmt: skip
        self.bank, self.table = bank, table_of(bank, self.features)
        self.levels = bank.levels
        self.model = make(self.head).fit(self.table, bank.sizes, bank.names)
        self.voters = Votes().fit(self.table, bank.sizes, bank.names)
        self.conformal = ConformalSets.fit(
            lambda: make(self.head), self.table, bank.sizes, bank.names, alpha=self.alpha
        )
        self.gate = RecipeGate.fit(self.table, bank.sizes, bank.names)
        return self

    def predict(
        self, reference: str | Path | Spectra, *, recipe: Mapping[str, Any] | None = None,
        assume_recipe: bool = False,
        references: Sequence[tuple[str | Path | Spectra, int]] = (),
    ) -> Prediction:  # fmt: skip
        """Tell the size of one adapter.

        Args:
            reference: folder, file or hub id, opened through the gate; or its spectra.
            recipe: what is known of its training: ``{"lr": 1e-4, "steps": 1200, ...}``.
            assume_recipe: take it to be the bank's recipe.
            references: adapters of known size that were made with the target's recipe.

        Returns:
            The prediction; ``identified`` is False where neither recipe nor references tell what
            the scale of the update means.

        Raises:
            BankMismatch: ``SIZE-SHAPES`` (exit code 4).
            InputRejected: ``SIZE-PICKLE``, ``SIZE-ADAPTER``, ``SIZE-PAIRS``, ``SIZE-REFERENCE``.
            ConfigError: ``SIZE-REFERENCE`` for a size outside the bank's range.
        """
        self._check_fitted()
        spectra = _spectra(reference)
        table, factors = self._row(spectra), {}
        if references:
            rows = [self._row(_spectra(one)) for one, _ in references]
            known = Table(np.concatenate([row.values for row in rows]), table.names, table.widths)
            factors = scale_factors(
                self.table, self.bank.sizes, known, [size for _, size in references]
            )
        table = table.times(factors)
        guess, notice = self.model.guess(table), self.gate.look(table)[0]
        kept = self.levels[self.conformal.sets(table)[0]]
        if not len(kept):  # all scores are high: the best size stays
            kept = self.levels[[int(guess.shares[0].argmax())]]
        return Prediction(
            size=float(guess.size[0]),
            votes=dict(zip(self.levels.tolist(), guess.shares[0].tolist(), strict=True)),
            prediction_set=tuple(kept.tolist()),
            ruled_out=self.conformal.can_rule_out,
            ood=notice,
            recipe=look(
                self.bank.recipe, recipe, assumed=assume_recipe, references=len(references)
            ),
            per_layer=self._layers(table, notice.layers.tolist()),
            scale=float(np.median(list(factors.values()))) if factors else 1.0,
            head=self.head,
            features=self.features,
            alpha=self.alpha,
            chance=chance(self.bank.sizes),
            bank=self._about_bank(),
            source=spectra.source,
        )

    def evaluate(
        self, bank: SpectraBank, split: str = SPLIT, train: int | None = None, repeats: int = 10,
        seed: int = 42,
    ) -> Evaluation:  # fmt: skip
        """Measure this head on a bank, by concept; the auditor itself need not be fitted."""
        return evaluate(
            bank, (self.head,), features=self.features, split=split, train=train, repeats=repeats,
            seed=seed, alpha=self.alpha,
        )  # fmt: skip

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write settings and bank; ``load`` fits again, which takes well under a second."""
        self._check_fitted()
        with new_folder(Path(folder), overwrite) as part:
            write_files(self.bank, part)
            write_json(part / SETTINGS, {
                "schema": SCHEMA, "features": list(self.features), "head": self.head,
                "alpha": self.alpha, "bank_sha256": self.bank.sha256,
            })  # fmt: skip

    @classmethod
    def load(cls, folder: str | Path) -> SizeAuditor:
        """Return the auditor that ``save`` wrote.

        Raises:
            InputRejected: ``SIZE-AUDITOR``, ``SIZE-BANK`` and the codes of ``io.files``.
        """
        settings = read_json(Path(folder) / SETTINGS)
        if not isinstance(settings, dict) or settings.get("schema") != SCHEMA:
            raise broken(f"{SETTINGS} is not one that `peftlab size fit` wrote")
        features, head, alpha = (settings.get(key) for key in ("features", "head", "alpha"))
        sound = isinstance(features, list) and isinstance(head, str) and isinstance(alpha, float)
        bank = load(folder)
        if not sound or bank.sha256 != settings.get("bank_sha256"):
            raise broken(f"{SETTINGS} does not fit the bank beside it")
        return cls(features, head, alpha).fit(bank)  # type: ignore[arg-type]

    def _check_fitted(self) -> None:
        if not hasattr(self, "model"):
            raise ConfigError(
                "this auditor has learned from no bank", code="SIZE-UNFITTED",
                fix="call fit(bank) first",
            )  # fmt: skip

    def _row(self, spectra: Spectra) -> Table:
        vectors = fit_to(spectra, self.bank.layers, self.table.names)
        return row_table(vectors, self.table.names)

    def _layers(self, table: Table, outside: Sequence[bool]) -> tuple[LayerVotes, ...]:
        votes = self.levels[self.voters.votes(table)[0]].tolist()
        norms = table.norms().values[0].tolist()
        found: dict[str, dict[str, Any]] = {}
        for name, vote, norm in zip(table.names, votes, norms, strict=True):
            layer, _, kind = name.rpartition("/")
            own = found.setdefault(layer, {"votes": {}, "norm": norm})
            own["votes"][kind] = vote
            own["norm"] = norm if kind == "BA" else own["norm"]
        gone = dict(zip(found, outside, strict=False))
        return tuple(
            LayerVotes(layer, own["votes"], own["norm"], gone.get(layer, False))
            for layer, own in found.items()
        )

    def _about_bank(self) -> dict[str, Any]:
        bank = self.bank
        return {
            "title": str(bank.about.get("title", "bank")), "adapters": len(bank),
            "concepts": len(bank.concepts), "sizes": bank.levels.tolist(),
            "recipe": dict(bank.recipe), "sha256": bank.sha256,
        }  # fmt: skip


def _spectra(reference: str | Path | Spectra) -> Spectra:
    return reference if isinstance(reference, Spectra) else read_spectra(reference)
