"""Floor 1: the calculus of a transformer, each verb a plain NumPy function; `fused` is its one door to kernels."""
