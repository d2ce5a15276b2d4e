"""What tensors are called in files of one model that were saved in different ways."""
