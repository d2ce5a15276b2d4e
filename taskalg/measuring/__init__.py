"""What sums of checkpoints measure: inner products in one pass, and norms and angles from them."""
