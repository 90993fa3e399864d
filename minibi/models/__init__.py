"""Floor 2: model folders, one file per architecture, and the encoders people use."""
