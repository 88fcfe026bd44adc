"""Figures of an evaluation, and how they are written."""
