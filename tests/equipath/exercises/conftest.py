"""Figures that a test of the exercises draws are closed after it."""

import sys

import pytest


@pytest.fixture(autouse=True)
def close_figures():
    yield
    if plots := sys.modules.get("matplotlib.pyplot"):  # not imported for the tests that draw nothing
        plots.close("all")
