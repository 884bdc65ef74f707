# make demo   the whole line at toy size, from nothing to a model that you can talk to
# make test   all set-up and the tests
# make check  lint, types, tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check install lint lock tree clean

demo: .venv/installed
	@$(BIN)/mill run demo

test: .venv/installed-dev
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: lint test

lint: .venv/installed-dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright

install: .venv/installed

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Modelmill needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/installed: requirements.lock pyproject.toml infra/install.py | .venv/bin/uv
	@echo "installing the pinned packages into .venv (once)"
	@$(BIN)/python infra/install.py requirements.lock
	@touch $@

.venv/installed-dev: requirements.lock requirements-dev.lock pyproject.toml infra/install.py | .venv/bin/uv
	@echo "installing the pinned packages and those of the tests into .venv (once)"
	@$(BIN)/python infra/install.py requirements.lock requirements-dev.lock
	@touch .venv/installed $@

# The locks hold names and versions only: no index, no hosts, no build tags, so every user's own index serves them.
lock: | .venv/bin/uv
	@$(BIN)/python infra/lock.py

# docs/code.md from the first line of every module
tree: | .venv/bin/uv
	@$(BIN)/python infra/tree.py

clean:
	rm -rf .venv .mill .pytest_cache .ruff_cache build *.egg-info
