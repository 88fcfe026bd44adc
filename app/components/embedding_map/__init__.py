"""Parts of the page Embedding map."""
