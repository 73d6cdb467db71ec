"""How the checkpoints that ship with evertune were made: `python scripts/pretrain.py tiny`, `... smol`."""
