# The two commands of the README: `make demo` and `make test`. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
DATA ?= $(firstword $(wildcard ../shared/data) data)
BACKBONE ?= $(firstword $(wildcard ../shared/models/icon-clip.pt) ViT-B/16)

.PHONY: demo test setup clean

setup: $(VENV)/installed

$(VENV)/installed: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

SEEDS ?= 1

demo: setup
	@SEEDS="$(SEEDS)" DATA="$(DATA)" BACKBONE="$(BACKBONE)" PYTHON="$(CURDIR)/$(VENV)/bin/python" bash scripts/demo.sh

test: setup
	$(VENV)/bin/python -m pytest -q

clean:
	rm -rf $(VENV) *.egg-info
