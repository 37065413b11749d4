"""Where everything comes from and what became of it, from patients and raw files to pairs, models and numbers, and back."""
