"""Guest memory: regions, contents, and the map in which each page is added once."""
