"""A static site of many runs: boards, and a page for each run, method and cell.

Imports: the report room.
"""
