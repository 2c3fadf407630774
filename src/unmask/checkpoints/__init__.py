"""Public checkpoints of other people: JSON and tensors alone, no code."""
