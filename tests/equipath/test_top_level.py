"""The names at the top: all there, found by editors, its example true, and nothing loaded before it is used."""

import doctest
import subprocess
import sys
from importlib import import_module

import pytest

import equipath


def test_every_name_is_found_and_listed():
    for name in equipath.__all__:
        assert getattr(equipath, name) is getattr(import_module(equipath._HOMES[name]), name)
    assert equipath.P4M.order == 8
    assert equipath.P4.order == 4
    assert set(equipath.__all__) <= set(dir(equipath))
    assert set(equipath._HOMES) == set(equipath.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = equipath.nonsense


def test_the_example_is_true():
    result = doctest.testmod(equipath)
    assert (result.attempted, result.failed) == (5, 0)


def test_importing_loads_no_torch():
    code = "import sys, equipath, equipath.cli; print('torch' in sys.modules); equipath.UNet; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
