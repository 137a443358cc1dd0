# Two commands for a fresh machine with Python 3.11 (with venv), git and make: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo real desk desk-real test test-oldest test-serving test-llama-cpp test-endpoint test-endpoint-llama check docs lume lume-compare lume-second-order clean

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed (set PYTHON=...)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

# Exit code 3 means that the verdict does not pass, which the demo reports; it is not a failed command.
demo: $(READY)
	$(BIN)/expunge demo || test $$? -eq 3

# The same on SmolLM2-135M: downloads 93 MB from the package index, fine-tunes, forgets one customer.
real: $(READY)
	$(BIN)/expunge demo --real --output expunge-real || test $$? -eq 3

# Three erasure requests over time, as docs/erasure.md tells them, with a small model: under a minute.
desk: $(READY)
	$(BIN)/python examples/erasure_desk/desk.py build/desk

# The same with SmolLM2-135M (93 MB from the package index), fine-tuned on customers first.
desk-real: $(READY)
	$(BIN)/python examples/erasure_desk/desk.py build/desk-real --real

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typed_calls.py
	$(BIN)/lint-imports

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

# The same tests beside the oldest model libraries that pyproject.toml allows. Types are not checked there: they are
# those of the newest.
OLDEST := .venv-oldest
$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed (set PYTHON=...)"; exit 2; }
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e ".[dev]"
	touch $@

test-oldest: $(OLDEST)/.ready
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 --dist loadgroup

# Outputs as plain transformers 4.57 serves them, in an environment without this package (tests/serving).
SERVING := .venv-serving
$(SERVING)/.ready: tests/serving/constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed (set PYTHON=...)"; exit 2; }
	$(PYTHON) -m venv $(SERVING)
	$(SERVING)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/serving/constraints.txt
	touch $@

test-serving: $(READY) $(SERVING)/.ready
	rm -rf build/serving
	$(SERVING)/bin/python tests/serving/serving.py make build/serving
	$(BIN)/python tests/serving/serving.py unlearn build/serving
	$(SERVING)/bin/python tests/serving/serving.py check build/serving

# An output of the real model (make real) through llama.cpp's converter and back, which a source package of 77 MB carries.
LLAMA := .venv-llama
LLAMA_VERSION := 0.3.36
OUTPUT ?= expunge-real
$(LLAMA)/.ready:
	mkdir -p $(LLAMA)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: -d $(LLAMA) llama-cpp-python==$(LLAMA_VERSION)
	tar xzf $(LLAMA)/llama_cpp_python-$(LLAMA_VERSION).tar.gz -C $(LLAMA)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(LLAMA)/site sentencepiece==0.2.1
	touch $@

test-llama-cpp: $(READY) $(LLAMA)/.ready
	PYTHONPATH=$(LLAMA)/site $(BIN)/python tests/serving/llama_cpp.py $(OUTPUT) $(LLAMA)

# `expunge evaluate --endpoint` against `transformers serve`, whose own needs lie in a folder beside the environment.
ENDPOINT := .venv-endpoint
$(ENDPOINT)/.ready: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(ENDPOINT)/site fastapi==0.165.0 uvicorn==0.54.0 openai==3.57.0
	touch $@

test-endpoint: $(READY) $(ENDPOINT)/.ready
	PYTHONPATH=tests $(BIN)/python tests/serving/endpoint.py transformers $(ENDPOINT)/site

# The same against the server of llama-cpp-python, which is compiled here first: half an hour on two cores.
test-endpoint-llama: $(READY) $(ENDPOINT)/.ready-llama
	PYTHONPATH=tests $(BIN)/python tests/serving/endpoint.py llama-cpp-python $(ENDPOINT)/llama

$(ENDPOINT)/.ready-llama: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(ENDPOINT)/llama "llama-cpp-python[server]==$(LLAMA_VERSION)"
	touch $@

# The pages of docs/methods and docs/curvatures, from the docstrings.
docs: $(READY)
	$(BIN)/python docs/catalogue.py

# The whole of recipes/lume_small.yaml: models, twins, unlearning. LUME=folder of the four public folds.
LUME ?= ../shared/data/lume
lume: $(READY)
	$(BIN)/python benchmarks/lume_small.py --lume $(LUME)

# Five methods x three seeds beside three twins, and the organisers' baselines; goes on where it was interrupted.
lume-compare: $(READY)
	$(BIN)/python benchmarks/lume_small.py --lume $(LUME) --compare

# Second-order methods and their ablation on the same rows: tuning, three seeds, a request of three documents.
lume-second-order: $(READY)
	$(BIN)/python benchmarks/second_order.py --lume $(LUME) --page docs/results/lume_second_order.md

clean:
	rm -rf $(VENV) $(OLDEST) $(SERVING) $(LLAMA) $(ENDPOINT) build
