"""Parts of the page Distributions."""
