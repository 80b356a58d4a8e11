# Isthmus. `make` says what there is.
SHELL := /bin/sh
PY := .venv/bin/python
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/isthmus/lab

.PHONY: help setup demo test lint bench bench-placement coverage package clean root

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## install what is missing: Debian packages (as root) and .venv
	@scripts/setup

demo: root setup ## a full private pool bursts into a cloud, on this machine; KEEP=1 leaves it running
	@.venv/bin/isthmus lab demo $(if $(KEEP),--keep)

test: setup ## everything that must be green: lint, types, import contracts, tests
	@scripts/test

lint: setup ## format and lint the sources, mending what can be mended, and check the types
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .
	@.venv/bin/mypy

bench: root setup ## how long things take, against the goals; wants an idle machine, and root
	@missed=; for each in $(filter-out bench/placement.py,$(wildcard bench/[a-z]*.py)); do echo "== $$each"; \
	  $(PY) -m bench.$$(basename $$each .py) || missed="$$missed $$each"; done; \
	[ -z "$$missed" ] || { echo "not met:$$missed (a busy machine is no measure)"; exit 1; }

coverage: setup ## how much of each package the plain tests go through, branches too, against a floor for each
	@scripts/coverage

package: root setup ## wheels, a Debian package and an OCI image into dist/, each installed and started
	@scripts/package

root:
	@[ "$$(id -u)" -eq 0 ] || { echo 'This makes name spaces and needs root: sudo make $(MAKECMDGOALS)' >&2; exit 1; }

bench-placement: setup ## the match beside a plain greedy in numpy and in C, every answer replayed; CLASSADS=1 adds HTCondor's
	@$(PY) -m bench.placement $(if $(CLASSADS),--classads)

clean: ## remove .venv, dist, caches and the lab's guest image
	rm -rf .venv dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache $(CACHE)
