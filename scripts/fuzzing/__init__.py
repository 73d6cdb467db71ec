"""What the fuzz campaign (`scripts/fuzz.py`) and its short form in the tests share: inputs, readers, guards."""
