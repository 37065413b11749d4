"""A page on this machine alone, where people look at pairs and predictions, and decide on pairs."""
