"""Reading, checking and caching files."""
