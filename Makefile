PYTHON ?= .venv/bin/python

.venv: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[dev]'
	touch .venv

.PHONY: check test demo bench
check: .venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: .venv
	$(PYTHON) -m pytest

demo: .venv
	.venv/bin/kardiabench demo

bench: .venv
	$(PYTHON) benchmarks/startup.py
	$(PYTHON) benchmarks/throughput.py
	$(PYTHON) benchmarks/replay.py
