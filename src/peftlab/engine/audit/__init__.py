"""The audit: gate, caged load, every registered audit that applies, a policy, one verdict.

reference -> Artefact -> checks -> policy -> AuditReport
"""

from peftlab.engine.audit.report import AuditReport
from peftlab.engine.audit.run import audit

__all__ = ["AuditReport", "audit"]
