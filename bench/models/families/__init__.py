"""One file a family of text-to-image models: what methods may ask of a pipeline without naming its
parts (`family.Family`).

Imports: contract.
"""
