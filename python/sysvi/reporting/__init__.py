"""Reports: what an integration did, as one page that opens without a network."""
