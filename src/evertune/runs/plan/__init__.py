"""Plans a run and its cost: measured on this machine, or estimated from a model's configuration."""
