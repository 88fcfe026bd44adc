"""Parts that every page may use. They import no page's parts."""
