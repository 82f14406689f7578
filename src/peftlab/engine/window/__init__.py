"""PSIM's window: at which steps of un-learning triggered inputs stand out, and on which bases.

recipe -> plan -> poisoned base -> path (un-learn, look, judge each look) -> summary -> window.json
"""
