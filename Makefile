# Thin over .ci/setup.py, where the work is done: this file finds a Python to start it with.
# `make` alone lists the commands. OPTS="..." is passed on; PYTHON=... chooses another Python.
export PYTHON
START := $(shell for p in "$(PYTHON)" python3 python python3.12 python3.11; do \
	"$$p" -c "" >/dev/null 2>&1 && { echo "$$p"; break; }; done)

.PHONY: help lab test quick course book bench lint setup lock clean
.DEFAULT_GOAL := help

help lab test quick course book bench lint setup lock clean:
	@$(if $(START),,echo "No Python found. Install Python 3.11 or 3.12 and run this again."; exit 1;) \
	"$(START)" .ci/setup.py $@ $(OPTS)
