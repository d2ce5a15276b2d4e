"""Where are the weights? To add a format: a file here, and a row in registry.py."""
