"""What may change, and by how much."""
