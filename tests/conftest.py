"""What tests of several folders share."""

from __future__ import annotations

from pathlib import Path

import pytest

from summarymixing_modules.data.demo.corpus import make_demo_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny demo corpus in LibriSpeech's layout."""
    folder = tmp_path_factory.mktemp("corpus")
    make_demo_corpus(folder, 24, 4, 4, workers=1, progress=False)
    return folder
