# `make` lists the targets. The help of a target is the text after its `##`.

PYTHON ?= python3
SPOS := .venv/bin/spos
PYTEST := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
FAULTS ?= 45
TESTS ?= tests
DEMO := --config configs/demo.yaml

.DEFAULT_GOAL := help
.PHONY: help setup demo test unit test-oldest lint docs soak bench bench-full gpu

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/installed ## create .venv with all extras and the tools of developers; the other targets begin with it

.venv/installed: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: setup ## run the pipeline, six commands, on real images, in minutes on a laptop's CPU
	$(SPOS) supernet-train $(DEMO)
	$(SPOS) flops-table $(DEMO) --flops-limit 630K
	$(SPOS) search $(DEMO)
	$(SPOS) export-arch $(DEMO)
	$(SPOS) retrain $(DEMO)
	$(SPOS) evaluate $(DEMO)

test: setup ## run all tests
	.venv/bin/$(PYTEST)

unit: setup ## run the quick tests, without those of whole commands
	.venv/bin/$(PYTEST) -m 'not slow' --ignore tests/e2e

test-oldest: .venv-oldest/installed ## run the tests that are not marked slow with the oldest versions that pyproject.toml allows, in .venv-oldest
	.venv-oldest/bin/$(PYTEST) -m 'not slow' -o filterwarnings=default $(TESTS)

.venv-oldest/installed: pyproject.toml tests/oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	.venv-oldest/bin/python -m pip install --quiet --constraint tests/oldest.txt --editable '.[dev]'
	touch $@

lint: setup ## check style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: setup ## write the tables of settings in configs/README.md and the code map in spos_cli/README.md
	.venv/bin/python -m tests.settings_table
	.venv/bin/python -m tests.code_map

soak: setup ## train, search and retrain under random faults, about 10 minutes; FAULTS=9 for fewer
	.venv/bin/python -m tests.soak --faults $(FAULTS)

bench: setup ## compare the speed with that of the official procedure and of plain PyTorch, about 20 minutes
	.venv/bin/python -m tests.benchmarks

bench-full: setup ## the same with more batch sizes and float32 candidates, which takes longer
	.venv/bin/python -m tests.benchmarks --full

gpu: setup ## check numbers, processes and speed on a GPU, at most 10 minutes; without one, it only tests the checks
	.venv/bin/python -m tests.gpu
