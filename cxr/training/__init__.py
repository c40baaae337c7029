"""Recipes, the objective and the loop that yields one record an epoch."""
