"""A run of an attack over many pairs, as one looks through it: selections, rates, maps, and what predicts success."""
