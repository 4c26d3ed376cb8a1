"""The run folder: records, checksums, locks, and where numbers come from.

Imports: contract.
"""
