"""One optimizer step, from a global batch of records to an update."""
