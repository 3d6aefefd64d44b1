"""The networks: what they are, what can be pruned in them, and what a mask leaves of them."""
