"""What does it mean? A tree becomes one exact weighted sum of checkpoints."""
