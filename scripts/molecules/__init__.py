"""From SMILES to descriptors."""
