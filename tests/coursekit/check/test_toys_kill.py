"""The kill matrix of the toy exercises, with the one line that course tests use."""

from coursekit.testing import kill_matrix

from . import toys

test_kill = kill_matrix(toys)
