"""Critics that are fitted in closed form or that learn places: what a learned residual starts from."""
