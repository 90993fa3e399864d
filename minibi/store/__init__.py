"""Floor 1: arrays to bytes and back, checked and atomic."""
