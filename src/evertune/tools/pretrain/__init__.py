"""How `tiny` is made from scratch: `evertune pretrain tiny`."""
