"""What is drawn on the pages: `common` for all of them, a folder for each page."""
