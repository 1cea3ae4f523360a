PYTHON ?= .venv/bin/python

.venv: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[dev]'
	touch .venv

.PHONY: check test test-real-model demo bench
check: .venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: .venv
	$(PYTHON) -m pytest

test-real-model: .venv
	$(PYTHON) -m pip install -q -c constraints.txt -r tests/requirements-real-model.txt
	$(PYTHON) -m pytest -m real_model -n 0

demo: .venv
	.venv/bin/kardiabench demo

bench: .venv
	$(PYTHON) benchmarks/startup.py
	$(PYTHON) benchmarks/throughput.py
	$(PYTHON) benchmarks/replay.py
