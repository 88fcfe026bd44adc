"""The comparison of defences: its terms (`protocol`), and what is measured under them."""
