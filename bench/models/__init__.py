"""Text-to-image models: the wrapper that methods work on, the catalog of bases, and what may be
read of a model.

Imports: contract.
"""
