"""Where examples and predictions are kept under their content."""
