# The commands of the README, `make demo` and `make test`, `make lint` of those who change the code, and `make attack`,
# which tries for an hour to make runs lose or falsify something. They set up .venv first.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test attack lint setup clean

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

attack: setup
	$(VENV)/bin/python -m tests.attack

lint: setup
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy

clean:
	rm -rf $(VENV) *.egg-info
