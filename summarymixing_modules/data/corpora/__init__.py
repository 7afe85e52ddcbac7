"""Corpora: one file each, which says how its public layout is read; one registry (registry.py)."""

from summarymixing_modules.data.corpora.registry import (
    CorpusSpec,
    corpus_names,
    corpus_spec,
    register_corpus,
    unregister_corpus,
)

# isort: split
# Importing a corpus's file registers it.
from summarymixing_modules.data.corpora.aishell1 import prepare_aishell1
from summarymixing_modules.data.corpora.common_voice import prepare_common_voice
from summarymixing_modules.data.corpora.iemocap import prepare_iemocap
from summarymixing_modules.data.corpora.librilight import prepare_librilight
from summarymixing_modules.data.corpora.librispeech import prepare_librispeech
from summarymixing_modules.data.corpora.manifest import prepare_manifest
from summarymixing_modules.data.corpora.slurp import prepare_slurp
from summarymixing_modules.data.corpora.speech_commands import prepare_speech_commands
from summarymixing_modules.data.corpora.tedlium2 import prepare_tedlium2
from summarymixing_modules.data.corpora.voxceleb import prepare_voxceleb
from summarymixing_modules.data.corpora.voxpopuli import prepare_voxpopuli

__all__ = [
    "CorpusSpec",
    "corpus_names",
    "corpus_spec",
    "prepare_aishell1",
    "prepare_common_voice",
    "prepare_iemocap",
    "prepare_librilight",
    "prepare_librispeech",
    "prepare_manifest",
    "prepare_slurp",
    "prepare_speech_commands",
    "prepare_tedlium2",
    "prepare_voxceleb",
    "prepare_voxpopuli",
    "register_corpus",
    "unregister_corpus",
]
