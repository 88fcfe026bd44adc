"""What the lab's pages ask for, as functions on plain data: an experiment in, numbers and 8-bit pictures out.

Nothing here knows of a user interface; the command line, a notebook and the web lab call the same functions.
Importing this package imports neither torch nor open_clip: `experiment`, `images`, `result` and `compose` are light,
the others
import the models' side when they are called.
"""
