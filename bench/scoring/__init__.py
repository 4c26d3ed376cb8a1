"""Network features of pictures, extracted once for all metrics, and the published networks behind
them.

Imports: contract, data, models, stats, targets.
"""
