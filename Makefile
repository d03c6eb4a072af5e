# make setup   .venv with everything that users and developers need; the others do this by themselves
# make demo    all six commands on real images, in minutes on a laptop's CPU
# make test    all tests; `make unit` leaves the slow ones out
# make test-oldest  the quick tests with the oldest versions that pyproject.toml promises, in .venv-oldest
# make lint    style and types
# make soak    everything that can go wrong, at random moments, about 10 minutes; FAULTS=9 for fewer
# make bench   speed against the published procedure and how cost grows, about 5 minutes; bench-full: all sizes, longer
# make docs    what pages say of the code: all settings in configs/README.md, the code map in spos_cli/README.md
# make gpu     numbers, processes and speed on a GPU, 10 minutes at most; without one it checks itself on the CPU

PYTHON ?= python3
SPOS := .venv/bin/spos
FAULTS ?= 45
TESTS ?= tests
DEMO := --config configs/demo.yaml

.PHONY: setup demo test test-oldest unit lint docs soak bench bench-full gpu

setup: .venv/installed

.venv/installed: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: setup
	$(SPOS) supernet-train $(DEMO)
	$(SPOS) flops-table $(DEMO) --flops-limit 630K
	$(SPOS) search $(DEMO)
	$(SPOS) export-arch $(DEMO)
	$(SPOS) retrain $(DEMO)
	$(SPOS) evaluate $(DEMO)

test: setup
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

unit: setup
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow' -o filterwarnings=default $(TESTS)

.venv-oldest/installed: pyproject.toml tests/oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	.venv-oldest/bin/python -m pip install --quiet --constraint tests/oldest.txt --editable '.[dev]'
	touch $@

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: setup
	.venv/bin/python -m tests.settings_table
	.venv/bin/python -m tests.code_map

soak: setup
	.venv/bin/python -m tests.soak --faults $(FAULTS)

bench: setup
	.venv/bin/python -m tests.benchmarks

bench-full: setup
	.venv/bin/python -m tests.benchmarks --full

gpu: setup
	.venv/bin/python -m tests.gpu
