"""Runs each test of this folder for every form of every registered mixer."""

from __future__ import annotations

import pytest

from summarymixing_modules.mixers import MixerForm
from tests.conformance.forms import FORMS


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> MixerForm:
    return FORMS[request.param]
