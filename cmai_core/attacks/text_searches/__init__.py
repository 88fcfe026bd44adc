"""Searches in words, and what proposes them."""
