"""Training: one safe base Brain, its checkpoints, exact resume, recipes' YAML files and reports."""
