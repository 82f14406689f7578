"""Selection, labels and triggered sets: what all text-wise attacks share.

Semantics after thunlp/OpenBackdoor (attacks.md 1): ``rate`` is a share of the *whole* training
set; ``dirty`` draws from non-target samples and relabels, ``clean`` draws from target samples and
keeps labels, ``mixed`` draws from all and relabels. Poisoned samples replace their originals.
Texts that cannot carry the trigger (``poison_text`` gives None) are passed over and counted,
never relabelled.
"""
