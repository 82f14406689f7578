"""Is this adapter backdoored? A verdict from spectral statistics and a bank of known adapters."""

from peftlab.audits.backdoor.audit import BackdoorAudit, BackdoorOptions
from peftlab.audits.backdoor.bank import AdapterBank, statistics_of

__all__ = ["AdapterBank", "BackdoorAudit", "BackdoorOptions", "statistics_of"]
