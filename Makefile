# The common jobs of a checkout. They need python3 (3.11 to 3.13), make, gcc and git; the rest goes into .venv.
# Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
RUN ?= runs/quickstart
BIN := .venv/bin
INSTALLED := .venv/.installed
# Two processes; the tests of a file share what they set up.
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all lint docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

quickstart: $(INSTALLED)  ## a run in miniature on the CPU: train, evaluate a held-out cluster, table and picture
	$(BIN)/flan-jax train --gin_file=gin/quickstart.gin --gin.MODEL_DIR=$(RUN)
	@ls $(RUN)/report.md $(RUN)/report.png > /dev/null
	@printf '\nThe table:   %s\nThe picture: %s\n' $(RUN)/report.md $(RUN)/report.png

test: $(INSTALLED)  ## the quick tests
	$(PYTEST) -m "not slow"

test-all: $(INSTALLED)  ## every test, the slow ones too
	$(PYTEST)

lint: $(INSTALLED)  ## ruff over everything: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(INSTALLED)  ## write docs/catalogue.md, templates.md, fidelity.md, settings.md and verbs.md from the code
	$(BIN)/python docs/make_catalogue.py
	$(BIN)/python docs/make_fidelity.py
	$(BIN)/python docs/make_settings.py
	$(BIN)/python docs/make_verbs.py

clean:  ## delete .venv and what builds and tests left behind; runs stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	    "$(PYTHON) is Python %d.%d; flan_jax needs 3.11 to 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)" % v)'
	@echo 'Installing flan_jax and what it needs into .venv: some minutes the first time.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@
