"""Files: descriptions of objects, checkpoints, model cards; written in one step."""
