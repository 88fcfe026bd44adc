"""Named attacks, as rows of plain data."""
