"""What evertune is measured against: the same models and data under `transformers.Trainer` and TRL's `SFTTrainer`.

Written as those libraries' own pages say, so that a reader can judge whether the comparison is fair.
"""
