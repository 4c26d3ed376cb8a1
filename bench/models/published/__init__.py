"""Models as they are published: parts, edited weights, single files in the original layout,
adapters and learned words. Each is taken over a whole base."""
