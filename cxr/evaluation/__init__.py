"""The scores table and what is computed from it."""
