"""What searches share: scoring of candidates, clean features, best examples."""
