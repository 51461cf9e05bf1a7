# make help lists what there is. All but help and clean set up .venv first.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile

# make setup LOCKED=1 installs all packages, those that others bring along too, in the versions and by the hashes of
# requirements.lock. It is not the default: a mirror may have built its files itself, or lack one.
PACKAGES := $(if $(LOCKED),--require-hashes -r requirements.lock,-r requirements.txt)

.PHONY: setup demo test attack docs lint lock dist clean help

setup: $(VENV)/installed  ## the packages that all others need, in .venv

$(VENV)/installed: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(PACKAGES)
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

demo: setup  ## the embedded benchmark and its report; minutes
	$(VENV)/bin/python -m benchmark run demo --workers 2
	$(VENV)/bin/python -m benchmark report demo

test: setup  ## all tests; minutes
	$(VENV)/bin/python -m pytest -q -n auto

attack: setup  ## an hour of trying to make runs lose or falsify something
	$(VENV)/bin/python -m tests.attack

docs: setup  ## the pages of docs/ as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

lint: setup  ## ruff and mypy
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy

# For every supported Python and platform. Packages that others bring along stay at their versions; make lock
# UPGRADE=--upgrade takes the newest.
lock:  ## requirements.lock anew, after a change of requirements.txt
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-annotate \
		--no-emit-index-url --custom-compile-command "make lock" $(UPGRADE) requirements.txt -o requirements.lock
	rm -rf $(VENV)-lock

# The wheel is built from the source distribution, which shows that nothing is missing there.
dist: setup  ## source distribution and wheel, in dist/
	rm -rf build dist
	$(VENV)/bin/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz

clean:  ## remove what make has made; runs, data and caches stay (mocoop benchmark clean)
	rm -rf $(VENV) $(VENV)-lock build dist site *.egg-info dassl/*.egg-info dassl/build
	rm -rf .pytest_cache .ruff_cache .mypy_cache

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1	\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14
