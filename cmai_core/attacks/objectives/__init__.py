"""What attacks raise, and when they have succeeded."""
