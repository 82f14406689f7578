"""All hostile artefacts, in the order of the table in SECURITY.md."""

from __future__ import annotations

import hostile_configs
import hostile_places
import hostile_tensors
from hostile_artefacts import Case, make_base

CASES: list[Case] = [
    *hostile_tensors.CASES,
    *hostile_configs.CASES,
    *hostile_places.CASES,
    *hostile_places.MEANWHILE,
]
ZIPS = hostile_places.ZIPS
GROUPS = tuple(dict.fromkeys(case.group for case in CASES))

__all__ = ["CASES", "GROUPS", "ZIPS", "Case", "make_base"]
