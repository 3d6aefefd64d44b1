# `make` rebuilds what is out of date, in a virtual environment it makes on first use (.venv, some
# minutes). Inside a conda environment (environment.yml) call the commands themselves: `dvc repro`.

.DEFAULT_GOAL := all
.PHONY: all rebuild full rebuild-full unlock test bench lab report lint lock clean help

# Every command below, and every stage that DVC starts, finds the environment's programs first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

all: .venv/.installed unlock  ## Rebuild the figures and tables that are out of date (the default)
	dvc repro

rebuild: .venv/.installed  ## Rebuild everything from nothing and compare it with what is committed
	python tools/rebuild.py

full: .venv/.installed unlock  ## Bring the full study up to date (two hours on two cores from nothing)
	dvc repro profiles/full/dvc.yaml

rebuild-full: .venv/.installed  ## Rebuild the full study from nothing and compare it with what is committed
	python tools/rebuild.py profiles/full/dvc.yaml

unlock:  ## Mend what a killed DVC left half written and starts no more with (all and full do it)
	@python tools/unlock.py

test: .venv/.installed  ## Run the tests
	python -m pytest

bench: .venv/.installed  ## Measure speed anew on a quiet machine (twenty to fifty minutes), then draw it
	mkdir -p .cache
	python -m lib.datasets
	python -m pytest benchmarks --benchmark-json=.cache/benchmarks.json
	python -m benchmarks.report .cache/benchmarks.json
	dvc repro speed

lab: .venv/.installed  ## Open the notebooks in JupyterLab
	python -m lib.datasets
	jupyter lab --LabApp.default_url=/lab/tree/notebooks

report: .venv/.installed  ## Put the notebooks as they ran into one file, executed/report.html
	python tools/report.py

lint: .venv/.installed  ## Check format and style
	ruff format --check
	ruff check

# Versions in requirements.txt stay if pyproject.toml admits them; to renew all, empty it first.
lock: .venv/.installed  ## Write requirements.txt anew from pyproject.toml
	python -m pip install --quiet --editable '.[dev]'
	uv pip compile --quiet --universal --python-version 3.11 --extra test \
		--custom-compile-command 'make lock' --output-file requirements.txt pyproject.toml

clean:  ## Remove executed notebooks, their report, kept cells, and what a kill left half written
	find data figures -name '.*.partial' -delete
	rm -rf executed/*.ipynb executed/report.html .cache

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s  %s\n", $$1, $$2 }' Makefile

# The stamp is newer than both files as long as the environment is what they say.
# The second install adds `lib` alone, with the setuptools just installed, so it needs no network.
.venv/.installed: requirements.txt pyproject.toml
	python3.11 -m venv .venv
	.venv/bin/python -m pip install --requirement requirements.txt
	.venv/bin/python -m pip install --no-deps --no-build-isolation --editable .
	touch $@
