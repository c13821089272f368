# `make demo` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test test-slow test-slow-group coverage lint hooks bench ui
setup: .venv/ready
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt torch
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

.sana/tiny/model_index.json: | .venv/ready
	$(BIN)/sana make-tiny-model .sana/tiny

demo: .venv/ready .sana/tiny/model_index.json
	$(BIN)/sana run configs/demo.yaml

test: .venv/ready
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=10

test-slow: .venv/ready
	$(BIN)/python -m pytest -q -m slow --durations=10

# of the slow tests the group that the commit's hash names: at most four minutes
test-slow-group: .venv/ready
	$(BIN)/python -m tests.slow_groups

coverage: .venv/ready
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --cov --cov-report=term --cov-fail-under=85

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

hooks: .venv/ready
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt pre-commit
	$(BIN)/pre-commit install

bench: .venv/ready
	$(BIN)/python -m benchmarks

ui: .venv/ready
	$(BIN)/sana ui configs/demo.yaml
