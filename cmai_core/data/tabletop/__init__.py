"""Tabletop: rendered scenes with captions, questions and statements whose truth is known."""
