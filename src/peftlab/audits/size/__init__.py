"""How many training examples an adapter was made from, told from its weights alone (DSiRe).

adapter -> spectra of A, B and B A by layer -> bank of labelled adapters -> head -> size, set, votes
"""

from peftlab.audits.size.audit import SizeAudit, SizeOptions
from peftlab.audits.size.auditor import SizeAuditor
from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.evaluate import Evaluation, evaluate
from peftlab.audits.size.prediction import Prediction

__all__ = [
    "Evaluation",
    "Prediction",
    "SizeAudit",
    "SizeAuditor",
    "SizeOptions",
    "SpectraBank",
    "evaluate",
]
