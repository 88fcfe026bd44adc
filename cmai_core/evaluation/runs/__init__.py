"""What is asked of which models, and how it is run."""
