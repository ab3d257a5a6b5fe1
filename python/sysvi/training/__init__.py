"""The training loop and its optimisations."""
