"""Thresholds of consistency verification, and what they realise."""
