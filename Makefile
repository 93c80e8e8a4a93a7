# One virtual environment in .venv; every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-deploy test-versions lint format train-demo clean

help:  ## Say what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.venv/runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/runtime training/requirements.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]' --requirement training/requirements.txt
	@touch $@

demo: .venv/runtime  ## Make a small simulated catalog in ./demo and mask its clouds
	$(BIN)/cloudjob demo --out demo

test: .venv/dev  ## Run the tests
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not deploy'

test-deploy: .venv/dev  ## Run the tests that need servers (installs them with apt-get, as root)
	bash tests/deploy/install.sh
	$(BIN)/pip install --quiet --constraint constraints.txt ukis-csmask  # 150 MB: a network to be compared with itself
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m deploy tests/deploy

test-versions:  ## Test the oldest versions allowed, and the newest on the newest Python (several GB)
	bash tests/versions/run.sh

lint: .venv/dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train-demo: .venv/dev  ## Train a small network on simulated data, to see the loop work
	$(BIN)/python -m training training/experiments/demo.toml --out runs/demo

clean:  ## Remove the environment and everything that was made
	rm -rf .venv demo runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
