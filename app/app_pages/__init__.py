"""The pages: one file each, with one declaration `PAGE`, listed in `app/registry.py`."""
