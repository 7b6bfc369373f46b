"""The numerics of the four TaxoClass stages."""
