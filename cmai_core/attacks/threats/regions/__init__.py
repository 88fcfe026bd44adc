"""Regions of pixels, one a norm."""
