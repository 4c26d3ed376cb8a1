"""Prompts and captioned pictures: the embedded world, data of the user, the four splits,
perturbations of prompts, streams of prompts.

Imports: contract.
"""
