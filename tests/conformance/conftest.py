"""Runs each test of this folder for every form of every registered mixer."""

from __future__ import annotations

import pytest

from tests.conformance.forms import FORMS, Form


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]
