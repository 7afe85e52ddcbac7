"""Training: one safe base Brain, its checkpoints, exact resume, recipes' YAML files and reports."""

from summarymixing_modules.compat import check_environment, hush_speechbrain

check_environment()  # before SpeechBrain is imported, which would end in a riddle
hush_speechbrain()
