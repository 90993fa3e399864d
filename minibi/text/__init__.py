"""Floor 1: from files and strings to packed batches of token ids, and from long documents to windows."""
