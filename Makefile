# One command each. The first one to run makes .venv and installs the locked dependencies; after that, set-up takes no time.
#
#   make demo     the line on real data, in about a minute
#   make test     the whole suite                     (WORKERS=1: one process; ARGS="tests/unit -x": some of it)
#   make torch    PyTorch and Lightning, for the tests of mlflow.pytorch (they skip without)
#   make check    lint, format, types, import firewall
#   make docs     writes docs/reference, docs/figures.md and the README's claims again
#   make bench    every benchmark in bench/           (BENCH=ledger: one of them; SMOKE=1: tiny sizes, nothing kept)
#   make lock     resolves the dependencies again     (UPGRADE=1: to their newest versions)
#   make clean    removes .venv, caches and build outputs

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory

CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
PYTHON ?= $(shell for p in $(CANDIDATES); do "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
WORKERS ?= 2
SMOKE_LIMIT_S ?= 25

BIN := .venv/bin
# A stamp is named after what it stands for, so a changed lock file (not merely a newer one) installs again.
sum = $(firstword $(shell cat $(1) pyproject.toml | cksum))
CORE := .venv/installed-core-$(call sum,requirements.lock)
DEV := .venv/installed-dev-$(call sum,requirements-dev.lock)
# The development lock holds everything the core lock does, at the same versions.
DEMO := $(if $(wildcard $(DEV)),$(DEV),$(CORE))

.PHONY: demo test torch check docs bench lock clean help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(DEMO)
	@$(BIN)/andon demo $(ARGS)

test: $(DEV)
	@$(BIN)/python -m pytest $(if $(filter-out 0 1,$(WORKERS)),-n $(WORKERS) --dist loadfile) $(ARGS)

# Not in the lock: which build of torch is right (CPU, CUDA) is the machine's own question.
torch: $(DEV)
	@$(BIN)/python -c 'import torch, lightning' 2>/dev/null || { \
	  echo "installing torch and lightning into .venv"; \
	  $(BIN)/python -m pip install -qq 'torch==2.13.0' 'lightning==2.6.6'; }

# All four run, whatever the first one says.
check: $(DEV)
	@failed=; \
	echo "ruff check";      $(BIN)/ruff check --output-format concise . || failed="$$failed ruff-check"; \
	echo "ruff format";     $(BIN)/ruff format --check --output-format concise . || failed="$$failed ruff-format"; \
	echo "mypy --strict";   $(BIN)/mypy                           || failed="$$failed mypy"; \
	echo "import firewall"; $(BIN)/python tests/project/test_import_firewall.py || failed="$$failed firewall"; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

docs: $(DEV)
	@$(BIN)/python docs/generate.py

bench: $(DEV)
	@for script in bench/$(or $(BENCH),[a-z]*).py; do \
	  [ -e "$$script" ] || { echo "there is no $$script"; exit 1; }; \
	  echo "== $$script"; code=0; \
	  $(if $(SMOKE),ANDON_BENCH_SMOKE=1 timeout -k 5 $(SMOKE_LIMIT_S)) $(BIN)/python "$$script" || code=$$?; \
	  case "$${code}$(SMOKE)" in \
	    0*) ;; \
	    124?*|137?*) echo "   stopped after $(SMOKE_LIMIT_S) s: a smoke run is about starting and not about timing" ;; \
	    *) exit $$code ;; \
	  esac; \
	done

# The core lock is resolved within the development lock, so that the two never disagree on a version.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
  --python-version 3.11 $(if $(UPGRADE),--upgrade) pyproject.toml --group build
lock: .venv/bin/uv
	@$(COMPILE) --extra dev --output-file requirements-dev.lock
	@$(COMPILE) --extra serving --constraint requirements-dev.lock --output-file requirements.lock
	@! grep -nE '^-|[:]//' requirements.lock requirements-dev.lock || { echo "a lock file names a place to fetch from: take it out"; exit 1; }
	@echo "wrote requirements.lock and requirements-dev.lock"

# Not by way of the lock files: they may be what is wrong.
.venv/bin/uv: .venv/bin/python
	@$(BIN)/python -m pip install -qq uv

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist tests/artifacts
	find src tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@[ -n "$(PYTHON)" ] || { \
	  echo "andon needs Python 3.11 or newer, and there is none on the PATH ($$(python3 --version 2>&1 | head -n 1))."; \
	  echo "  next: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "andon needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "  next: name a newer one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -m venv --clear .venv || { rm -rf .venv; \
	  echo "  next: this Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(CORE): LOCK := requirements.lock
$(DEV): LOCK := requirements-dev.lock
$(CORE) $(DEV): | .venv/bin/python
	@echo "installing $(LOCK) into .venv (once; under a minute)"
	@$(BIN)/python -m pip install -qq --no-deps --require-hashes -r $(LOCK)
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --no-index --editable .
	@rm -f $(@:$(lastword $(subst -, ,$@))=)*; touch $@
