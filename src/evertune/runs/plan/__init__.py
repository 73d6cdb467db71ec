"""What a run would do and cost: measured on this machine, or estimated from a model's configuration."""
