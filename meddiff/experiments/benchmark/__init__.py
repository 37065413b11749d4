"""The proof over datasets, budgets and seeds."""
