"""One file a probe: logistic regression, the SGD probe of the paper, few labels, kNN."""
