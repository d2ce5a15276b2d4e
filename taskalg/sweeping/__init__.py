"""A recipe's scalars tried on a grid: evaluated, scored, and one point chosen."""
