"""The report as one HTML page.

Imports: the report room.
"""
