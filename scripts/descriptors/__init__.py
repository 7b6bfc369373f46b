"""The numerics of passes 0 to 4: pure functions on arrays."""
