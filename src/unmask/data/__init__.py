"""Data sets: one file each. They yield clean tokens and nothing else; importing one downloads nothing."""
