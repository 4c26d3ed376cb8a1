"""Metrics: one registered dataclass a column. Each scores the shared samples of a cell with
`compute(samples, features) -> Score`."""
