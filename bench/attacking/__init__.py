"""What attacks share: the options of a trigger, poisoned pairs, personalization.

Imports: contract, data, models, training, targets.
"""
