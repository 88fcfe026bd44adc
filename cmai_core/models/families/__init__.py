"""Where models come from: one module for each family of specifications."""
