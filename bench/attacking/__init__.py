"""Shared parts of attacks: trigger options, poisoned pairs, personalization.

Imports: contract, data, models, training, targets.
"""
