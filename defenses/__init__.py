"""Defenses: one file a method. Each sees only what it declares in `needs`."""
