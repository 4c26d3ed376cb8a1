"""Shared parts of detectors and locators: screens, located triggers, walks, attention over time.

Imports: contract, data, models, stats, training.
"""
