"""From stored records to tables, plots and the report.

Imports: contract, stats, store; never torch.
"""
