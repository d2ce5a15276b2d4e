"""The version, where everything below the package root can import it."""

__version__ = "0.1.0"
