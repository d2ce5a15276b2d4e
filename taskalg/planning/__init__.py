"""What will happen? A sum of mentions becomes a plan: files, fit, steps, from headers alone."""
