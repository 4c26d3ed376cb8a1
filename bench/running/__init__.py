"""From settings to stored cells: the plan, the stages of a cell, worker processes, verification.

Imports: every room but report.
"""
