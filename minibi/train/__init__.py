"""Training: losses with their gradients, data, hard negatives, the calculus of whole models and the loop over them."""
