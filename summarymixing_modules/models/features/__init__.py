"""Front ends and the normalisation of what they read."""
