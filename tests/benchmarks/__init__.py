"""How fast the layers are, beside what they replace. ``python -m tests.benchmarks`` (``make bench``) runs
all."""
