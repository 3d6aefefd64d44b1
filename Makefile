# `make` rebuilds what is out of date, in a virtual environment it makes on first use (.venv, some
# minutes). Inside a conda environment (environment.yml) call the commands themselves: `dvc repro`.

.DEFAULT_GOAL := all
.PHONY: all rebuild full rebuild-full readme pipeline unlock test test-all data-fashion bench experiments lab lint lock clean help

# The Python of a new environment: `make PYTHON=python3.13`.
PYTHON ?= python3.11

# Every command below, and every stage that DVC starts, finds the environment's programs first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

all: .venv/.installed unlock  ## Rebuild the figures and tables that are out of date (the default)
	dvc repro

rebuild: .venv/.installed unlock  ## Rebuild everything from nothing and compare it with what is committed
	python tools/rebuild.py

full: .venv/.installed unlock  ## Bring the full study up to date (hours)
	python -m lib.study.fetch profiles/full.yaml
	dvc repro profiles/full/dvc.yaml

rebuild-full: .venv/.installed unlock  ## Rebuild the full study from nothing and compare it
	python -m lib.study.fetch profiles/full.yaml
	python tools/rebuild.py profiles/full/dvc.yaml

readme: .venv/.installed  ## Write README's table and docs/results.md anew from the tables
	python -m tools.readme

pipeline: .venv/.installed  ## Write profiles/full/dvc.yaml anew from dvc.yaml
	python tools/pipeline.py

# A killed DVC may leave half a file with which the next one would not start: its list of readers,
# which is taken away, or a dvc.lock, which comes back from git, or else is taken away, too.
is_a_lock = python -c 'import sys; from dvc.schema import COMPILED_LOCKFILE_SCHEMA as form; \
	from dvc.utils.strictyaml import load; load(sys.argv[1], form)'
unlock:  ## Mend what a killed DVC left half written (all, full and the rebuilds do it)
	@f=.dvc/tmp/rwlock; [ ! -e $$f ] || python -m json.tool $$f >/dev/null 2>&1 || rm -v $$f
	@for f in $(wildcard dvc.lock profiles/*/dvc.lock); do $(is_a_lock) $$f >/dev/null 2>&1 || \
		{ echo "$$f was half written"; git checkout -q HEAD -- $$f 2>/dev/null || rm -v $$f; }; done

# Two workers of one thread each. Tests of one xdist_group share a worker, and what they set up.
workers = OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadgroup -p no:benchmark
test: .venv/.tested  ## Run the tests that take no more than some minutes in all
	PANNING_CASES=60 $(workers) -m 'not slow'

test-all: .venv/.tested  ## Run every test, as continuous integration does
	$(workers)

data-fashion: .venv/.installed  ## Put FashionMNIST into data/raw/ (apt-get install dataset-fashion-mnist, or a network)
	python -c "from lib.data import sources; sources.fetch('fashion_mnist')"

# On a GPU: `make bench DEVICE=cuda`.
DEVICE ?= cpu
bench: .venv/.tested  ## Measure speed anew on a quiet machine (twenty-five to fifty minutes), then draw it
	mkdir -p .cache
	python -m lib.study.fetch params.yaml
	-$(MAKE) --no-print-directory data-fashion
	python -m pytest benchmarks --device=$(DEVICE) --benchmark-json=.cache/benchmarks.json
	python -m benchmarks.report .cache/benchmarks.json --device=$(DEVICE)
	dvc repro speed

experiments: .venv/.installed  ## Show what experiments changed, and their headline numbers
	dvc exp show --only-changed --drop '^(lib|data|notebooks|benchmarks|figures).*'

lab: .venv/.installed  ## Open the notebooks in JupyterLab
	python -m lib.study.fetch params.yaml
	jupyter lab --LabApp.default_url=/lab/tree/notebooks

lint: .venv/.tested  ## Check format and style
	ruff format --check
	ruff check

# Versions stay if pyproject.toml admits them; to renew all, empty both files first. The tests' file
# adds to the other one, and repeats none of its lines.
compile = uv pip compile --quiet --universal --python-version 3.11 pyproject.toml
lock: .venv/.installed  ## Write requirements.txt and requirements-test.txt anew from pyproject.toml
	python -m pip install --quiet --editable '.[dev]'
	$(compile) --custom-compile-command 'make lock' --output-file requirements.txt
	$(compile) --extra test --constraint requirements.txt --no-header --no-annotate \
		--output-file requirements-test.txt
	{ echo '-r requirements.txt'; grep -vxFf requirements.txt requirements-test.txt; } > .lock
	mv .lock requirements-test.txt

clean:  ## Remove kept cells, and what a kill left half written
	find data figures executed -name '.*.partial' -delete
	rm -rf .cache

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s  %s\n", $$1, $$2 }' Makefile

# A stamp is newer than its files as long as the environment is what they say.
# The second install adds `lib` alone, with the setuptools just installed, so it needs no network.
.venv/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --requirement requirements.txt
	.venv/bin/python -m pip install --no-deps --no-build-isolation --editable .
	touch $@

.venv/.tested: requirements-test.txt .venv/.installed
	.venv/bin/python -m pip install --requirement requirements-test.txt
	touch $@
