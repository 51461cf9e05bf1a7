# The commands of the README, `make demo` and `make test`; `make docs`, the pages as a site; `make lint` of those who change
# the code, and `make attack`, which tries for an hour to make runs lose or falsify something. They set up .venv first.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

# make setup LOCKED=1 installs all packages, those that others bring along too, in the versions and by the hashes of
# requirements.lock. It is not the default: a mirror may have built its files itself, or lack one.
PACKAGES := $(if $(LOCKED),--require-hashes -r requirements.lock,-r requirements.txt)

.PHONY: demo test attack docs lint lock setup clean

setup: $(VENV)/installed

$(VENV)/installed: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(PACKAGES)
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(VENV)/bin/python -m benchmark run demo --workers 2
	$(VENV)/bin/python -m benchmark report demo

test: setup
	$(VENV)/bin/python -m pytest -q -n auto

attack: setup
	$(VENV)/bin/python -m tests.attack

docs: setup
	$(VENV)/bin/python -m mkdocs build --strict

lint: setup
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy

# Write requirements.lock anew after a change of requirements.txt, for every supported Python and platform. Packages that
# others bring along stay at their versions; make lock UPGRADE=--upgrade takes the newest.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate \
		--no-emit-index-url --custom-compile-command "make lock" $(UPGRADE) requirements.txt -o requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock *.egg-info
