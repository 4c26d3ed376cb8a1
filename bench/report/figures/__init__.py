"""Plots and picture grids as PNG files.

Imports: the report room.
"""
