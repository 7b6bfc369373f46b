"""The page of a run: what two of the wings made, drawn."""
