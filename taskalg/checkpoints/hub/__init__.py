"""Where are models on the Hub? From an address to a folder in the cache that readers can open."""
