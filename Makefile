# Two commands do all the set-up: `make demo` and `make test`; `make visdom` shows runs live.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8097
RUN = $(VENV)/bin/python
PIP = PIP_CONSTRAINT=$(CURDIR)/constraints.txt PIP_BUILD_CONSTRAINT=$(CURDIR)/constraints.txt \
      $(RUN) -m pip install --disable-pip-version-check --quiet

.PHONY: demo test test-long lint install visdom gpu-check clean

demo: $(VENV)/.installed
	$(RUN) main.py --model MiM --dataset Simulated --patch_size 7 --epoch 20

test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses=auto --maxprocesses=4

test-long: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m long

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)

install: $(VENV)/.installed

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "MiM needs Python 3.10 or later; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt constraints.txt | $(VENV)/bin/python
	@echo "Installing the requirements into $(VENV) (once; this takes a few minutes) ..."
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	@touch $@

visdom: $(VENV)/.installed
	@$(RUN) -m reporting.live.server --port $(PORT)

gpu-check: $(VENV)/.installed-dev
	$(RUN) -m benchmarks.gpu_right --output benchmarks/results
	$(RUN) -m benchmarks.gpu_fast --output benchmarks/results

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
