"""minibi beside its peers, in turns within one process, so that ratios survive a busy machine."""
