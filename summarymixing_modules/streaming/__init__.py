"""Recognition of running streams: samples in, text out, with a state of fixed size."""

from summarymixing_modules.streaming.encoder import EncodedChunk, StreamingEncoder
from summarymixing_modules.streaming.features import LocalFbank, StreamingFeatures
from summarymixing_modules.streaming.recognizer import RecognizerState, StreamingRecognizer
from summarymixing_modules.streaming.state import state_bytes

__all__ = [
    "EncodedChunk",
    "LocalFbank",
    "RecognizerState",
    "StreamingEncoder",
    "StreamingFeatures",
    "StreamingRecognizer",
    "state_bytes",
]
