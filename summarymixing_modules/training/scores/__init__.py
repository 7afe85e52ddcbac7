"""What evaluations count."""
