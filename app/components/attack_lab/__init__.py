"""Parts of the page Attack lab."""
