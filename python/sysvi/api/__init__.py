"""What users call to train models and to use them."""
