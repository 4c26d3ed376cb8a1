"""Attacks: one file a method. Each injects a backdoor into a clone of a clean model."""
