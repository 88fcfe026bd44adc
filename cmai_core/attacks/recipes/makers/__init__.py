"""How the attacks of recipes are made from options."""
