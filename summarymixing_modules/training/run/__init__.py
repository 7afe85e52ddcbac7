"""The output folder of a run: lock, settings, checkpoints, history, report; resuming."""
