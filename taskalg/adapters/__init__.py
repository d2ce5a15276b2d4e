"""A task vector as a LoRA adapter: factors joined exactly, or the best of a rank."""
