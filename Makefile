# Everything runs in .venv, made by `make setup` from requirements/lock.txt (exact versions, hash-checked).
PYTHON ?= $(shell for below in 14 15; do for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, $$below))" >/dev/null 2>&1 && echo $$p && exit; done; done)
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPILE = $(BIN)/uv pip compile --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --upgrade --quiet \
	--custom-compile-command 'make lock'
DOCS ?=
# Larger corpora for some tests and benchmarks; those are skipped without them.
export KB_TEST_DATA ?= $(abspath $(wildcard ../shared/data))

.DEFAULT_GOAL := help
.PHONY: help setup demo dev test lint bench lock clean

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY)  ## prepare .venv (python >= 3.11 is all it needs)

demo: $(READY)  ## index the documentation of the installed packages, or DOCS=folder, and ask it three questions
	$(BIN)/kb demo $(if $(DOCS),--source "$(DOCS:~/%=$$HOME/%)")

dev: $(READY)  ## start Postgres, Dagster's web UI and its daemon
	$(BIN)/kb dev

test: $(READY)  ## the whole suite on Postgres 18, then what touches Postgres on 16
	KB_TEST_PG_MAJOR=18 $(BIN)/pytest -q -n 2 --dist worksteal
	KB_TEST_PG_MAJOR=16 $(BIN)/pytest -q -n 2 --dist worksteal -m postgres

lint: $(READY)  ## ruff and pyright (strict on the engine)
	$(BIN)/ruff check .
	$(BIN)/basedpyright

bench: $(READY)  ## measure against peers, see evals/bench
	$(BIN)/python -m evals.bench

lock: $(READY)  ## renew the pinned versions in requirements/
	$(PIP) uv
	$(COMPILE) pyproject.toml --group dev --universal --python-version 3.11 --output-file requirements/lock.txt
	echo 'wordllama>=0.4' | $(COMPILE) - --no-deps --python-version 3.13 --output-file requirements/wordllama.txt

clean:  ## remove .venv and caches; indexed data in .kb stays
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements/lock.txt requirements/wordllama.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "python >= 3.11 and < 3.15 is needed and none was found: install one, or name it with PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; $(PYTHON) -m virtualenv .venv; } || { rm -rf .venv; \
		echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 2; }
	$(PIP) --require-hashes --no-deps -r requirements/lock.txt
	@if $(BIN)/python -c 'import sys, importlib.util as i; sys.exit(i.find_spec("wordllama") is not None)'; then \
		$(PIP) --require-hashes --no-deps --only-binary :all: -r requirements/wordllama.txt --python-version 3.13 \
		--platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
		--target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; fi
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
