"""The leaderboard: each defence over all triggers, compared honestly, as HTML, Markdown and JSON.

results.json -> ``units`` (what is measured of each attack and seed) -> ``board`` (means, worst
cases) and ``claims`` (who is better than whom) -> ``words``, ``markdown``, ``html``, ``scores``
"""
