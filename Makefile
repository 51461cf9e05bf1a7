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
	$(VENV)/bin/python -m benchmark run demo --workers 2
	$(VENV)/bin/python -m benchmark report demo

test: setup
	$(VENV)/bin/python -m pytest -q -n auto

clean:
	rm -rf $(VENV) *.egg-info
