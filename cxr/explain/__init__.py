"""Class activation maps and what is computed from them."""
