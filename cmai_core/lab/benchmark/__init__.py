"""A benchmark inside the lab."""
