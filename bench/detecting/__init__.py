"""What detectors and locators share: screens, located triggers, attention over time.

Imports: contract, data, models, stats, training.
"""
