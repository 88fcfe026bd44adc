"""Parts of the page Immunize."""
