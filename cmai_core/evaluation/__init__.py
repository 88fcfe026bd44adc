"""Grids of attacks in a store, figures, self-checks."""
