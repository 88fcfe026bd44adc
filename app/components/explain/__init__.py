"""Parts of the page Attention and attribution."""
