"""How many training examples an adapter was made from, told from its weights alone (DSiRe).

adapter -> spectra of A, B and B A by layer -> bank of labelled adapters -> head -> size, set, votes
"""
