"""What an artefact changes of the base that the operator trusts."""

from peftlab.audits.difference.audit import DifferenceAudit
from peftlab.audits.difference.rules import DifferenceOptions

__all__ = ["DifferenceAudit", "DifferenceOptions"]
