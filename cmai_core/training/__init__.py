"""One trainer, and a row of settings a recipe."""
