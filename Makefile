# `make demo` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
export NO_MKDOCS_2_WARNING := 1
# empty, whatever the machine sets: else each process compiles all it imports, 23 s of CPU for a worker in place of 9
export PYTHONDONTWRITEBYTECODE :=

# --no-compile: Python compiles what is imported, and only that, on first use
PIP := $(BIN)/pip install --disable-pip-version-check -q --no-compile -c constraints.txt

.PHONY: setup setup-dev demo test test-slow test-slow-group coverage lint hooks bench ui release docs docs-serve
setup: .venv/ready
setup-dev: .venv/dev
# what runs the pipeline
.venv/ready: pyproject.toml constraints.txt
	@echo "set-up 1/3: a venv in .venv"
	@$(PYTHON) -m venv .venv
	@echo "set-up 2/3: torch"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "set-up 3/3: this package and what it needs (Prefect, MLflow, diffusers ...): about two minutes"
	@$(PIP) -e .
	@touch $@
	@echo "set-up done: the command is .venv/bin/sana, or, after 'source .venv/bin/activate', sana"

# what tests and lints it, on top
.venv/dev: .venv/ready
	@echo "set-up for development: test servers, ffmpeg, linters"
	@$(PIP) -e '.[dev]'
	@touch $@

.sana/tiny/model_index.json: | .venv/ready
	$(BIN)/sana make-tiny-model .sana/tiny

demo: .venv/ready .sana/tiny/model_index.json
	$(BIN)/sana run configs/demo.yaml

# three on two cores: with two a quarter of the CPU's time passes in waits for servers and processes
test: .venv/dev
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --durations=10

test-slow: .venv/dev
	$(BIN)/python -m pytest -q -m slow --durations=10

# of the slow tests the group that the commit's hash names: at most four minutes
test-slow-group: .venv/dev
	$(BIN)/python -m tests.slow_groups

coverage: .venv/dev
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=85

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict -q -d build/site

# the docs site, into build/site; nothing in it is loaded from the network
docs: .venv/dev
	$(BIN)/mkdocs build --strict -d build/site

docs-serve: .venv/dev
	$(BIN)/mkdocs serve -a 127.0.0.1:8000

hooks: .venv/dev
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt pre-commit
	$(BIN)/pre-commit install

# the wheel of a tag, which must equal the version in pyproject.toml: make release TAG=v0.2.0
release: .venv/dev
	$(BIN)/python -m tests.release $(TAG)
	$(BIN)/python -m build --wheel --outdir dist

bench: .venv/dev
	$(BIN)/python -m benchmarks

ui: .venv/ready
	$(BIN)/sana ui configs/demo.yaml
