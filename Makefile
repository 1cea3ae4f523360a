PYTHON ?= .venv/bin/python

DEV = .venv/dev-installed

# A marker of its own: the README's first command makes a .venv without what checks need.
$(DEV): pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[dev]'
	touch $(DEV)

VLLM = .venv-vllm/installed

# vLLM has an environment of its own: it pins other versions than constraints.txt.
$(VLLM): pyproject.toml tests/requirements-vllm.txt
	python3 -m venv .venv-vllm
	.venv-vllm/bin/pip install -q -r tests/requirements-vllm.txt -e .
	.venv-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	touch $(VLLM)

.PHONY: check test test-real-model test-browser test-vllm demo site site-real bench
check: $(DEV)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: $(DEV)
	$(PYTHON) -m pytest

test-real-model: $(DEV)
	$(PYTHON) -m pip install -q -c constraints.txt -r tests/requirements-real-model.txt
	$(PYTHON) -m pytest -m real_model -n 0

test-browser: $(DEV)
	$(PYTHON) -m pytest -m browser -n 0

test-vllm: $(VLLM)
	.venv-vllm/bin/python -m pytest -m vllm -n 0 tests/test_vllm.py

site: $(DEV)
	$(PYTHON) examples/sample-site/make_runs.py runs/site
	.venv/bin/kardiabench leaderboard build runs/site -o site --title "KardiaBench sample"

site-real: $(DEV)
	$(PYTHON) -m pip install -q -c constraints.txt -r tests/requirements-real-model.txt
	$(PYTHON) examples/sample-site/make_runs.py runs/site --real-model
	.venv/bin/kardiabench leaderboard build runs/site -o site --title "KardiaBench sample"

demo: $(DEV)
	.venv/bin/kardiabench demo

bench: $(DEV)
	$(PYTHON) benchmarks/startup.py
	$(PYTHON) benchmarks/throughput.py
	$(PYTHON) benchmarks/replay.py
	$(PYTHON) benchmarks/site.py
	$(PYTHON) benchmarks/rewards.py
	$(PYTHON) benchmarks/rescore.py
	$(PYTHON) benchmarks/reward_overhead.py
