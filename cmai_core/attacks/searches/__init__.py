"""Searches in pixels."""
