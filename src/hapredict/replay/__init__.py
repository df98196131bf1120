"""A model's own past, lived again by other rules: what each policy would have been worth."""
