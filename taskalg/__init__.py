"""Task arithmetic over model checkpoints, written as expressions."""
