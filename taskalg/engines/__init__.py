"""Make it happen. To add an engine: a file here, and a row in registry.py."""
