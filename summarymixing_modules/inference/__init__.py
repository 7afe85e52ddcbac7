"""Transcription and classification with trained models."""

from summarymixing_modules.inference.classifier import Classification, Classifier
from summarymixing_modules.inference.decoding import Transcript, Word
from summarymixing_modules.inference.recognizer import Recognizer

__all__ = ["Classification", "Classifier", "Recognizer", "Transcript", "Word"]
