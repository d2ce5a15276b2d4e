"""Task arithmetic on real networks, trained here in seconds: `taskalg demo`, and its scores."""
