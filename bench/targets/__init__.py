"""What a backdoor makes a model draw: one file a kind of target, which pastes it, judges it and
describes it.

Imports: contract, data, models.
"""
