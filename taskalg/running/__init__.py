"""Make it happen: a plan's blocks through an engine into an output, and the record of it."""
