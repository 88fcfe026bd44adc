"""Results as one HTML file that opens without a network: pictures, charts, settings, hashes, how to make it again."""
