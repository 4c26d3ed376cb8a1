"""Intervals, paired tests and pooling over seeds.

Imports: contract.
"""
