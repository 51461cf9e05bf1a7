# The two commands of the README: `make demo` and `make test`. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test setup clean

setup: $(VENV)/installed

$(VENV)/installed: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	PYTHON="$(CURDIR)/$(VENV)/bin/python" bash scripts/demo.sh

test: setup
	$(VENV)/bin/python -m pytest -q

clean:
	rm -rf $(VENV) *.egg-info
