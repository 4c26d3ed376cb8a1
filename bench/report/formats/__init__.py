"""One writer a format: csv, markdown, latex, terminal.

Imports: the report room.
"""
