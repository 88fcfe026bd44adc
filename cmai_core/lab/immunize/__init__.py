"""How the cure works, for the page Immunize: live on a small batch or pair, and as recorded and published."""
