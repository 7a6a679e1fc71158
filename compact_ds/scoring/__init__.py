"""What `score` keeps while it works and what it writes."""
