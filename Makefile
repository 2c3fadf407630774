# make demo    train, evaluate and sample the digits model in minutes, from nothing but Python, pip, make and git
# make test    every test, lint and type check
# make fuzz    2,000 damaged files and command lines: one line of error each, nothing run, nothing altered
# make docs    the site in build/docs, its notebooks executed (NOTEBOOKS=off: left without results)
# make bench   speed and memory, as ratios in one run: half an hour on 2 cores

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
NOTEBOOKS ?= cache

# Where it is set, each process compiles torch, lightning and the others anew: half a minute
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test style types tests docs fuzz bench clean

# --no-compile: a third of what is installed is ever imported, and compiled then
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unmask needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/unmask train digits --overwrite
	$(BIN)/unmask evaluate runs/digits --json runs/digits/metrics.json
	$(BIN)/unmask sample runs/digits -n 100 --label all --batch_size 100 --out runs/digits/samples.png --gif runs/digits/unmasking.gif
	@echo
	@echo 'In runs/digits: model/, samples.png, unmasking.gif, metrics.json, loss.png. What to try next:'
	@echo '  $(BIN)/unmask sample runs/digits --label 3 -n 10 --sampler Ancestral --sampler.steps 8 --out few_steps.png'
	@echo '  $(BIN)/unmask train pydocs && $(BIN)/unmask infill runs/pydocs "The ______ statement"'
	@echo '  $(BIN)/unmask info runs/digits'
	@echo '  $(BIN)/unmask train digits --help'

test: style types tests

style types tests: $(READY)

style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types:
	$(BIN)/mypy

tests:
	$(BIN)/pytest -n auto --dist worksteal

docs: $(READY)
	$(BIN)/sphinx-build --quiet -j auto -W --keep-going -D nb_execution_mode=$(NOTEBOOKS) docs build/docs
	@echo 'Open build/docs/index.html'

fuzz: $(READY)
	UNMASK_FUZZ=2000 $(BIN)/pytest tests/test_fuzz.py

bench: $(READY)
	$(BIN)/python -m benchmarks.sampling
	$(BIN)/python -m benchmarks.low_precision
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.trainer
	$(BIN)/python -m benchmarks.images

clean:
	rm -rf $(VENV) runs build dist docs/reference/generated
