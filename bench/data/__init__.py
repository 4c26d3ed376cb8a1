"""Prompts and captioned pictures: the embedded world as data, splits, perturbations, streams.

Imports: contract.
"""
