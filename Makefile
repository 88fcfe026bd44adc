# Two commands matter: `make app` starts the web lab, `make test` runs the whole test suite.
# Each needs only Python 3.11-3.14, pip and make; each makes .venv and installs on its first call and not again after that.

VENV    ?= .venv
HOST    ?= 127.0.0.1
PORT    ?= 8501
WORKERS ?= 2
# Further options of `cmai app`: make app APP="--allow ViT-B-32/laion2b_s34b_b79k"
APP     ?=
# The trainings behind the bundled models, and those whose consistency heads are trained afterwards.
RECIPES ?= base base-b base-2 base-3 continued classifier pgd-at tecoa-classes tecoa fare mat consistency hard-negative ssl \
	ssl-adversarial cmcv mbat mbat-beta0 cmcv-mbat cmai cmai-replay cmai-lora tecoa-b
HEADLESS ?= continued classifier pgd-at tecoa-classes tecoa fare mat consistency hard-negative ssl ssl-adversarial \
	mbat mbat-beta0 tecoa-b
# How `make numerics` differs from `make test`: PyTorch's instructions (default, avx2), threads, and the last bits of all
# random numbers (tests/conftest.py).
CAPABILITY ?= default
THREADS    ?= 2
NUDGE      ?= 1
# Extra arguments for pytest: make test ARGS="tests/attacks -k pgd"
ARGS    ?=
# The Python that makes .venv; without it the first suitable one on the PATH is taken.
PYTHON  ?=

BIN     := $(VENV)/bin
comma   := ,
LOCK    := requirements/lock.txt
SOURCES := pyproject.toml $(LOCK)

.DEFAULT_GOAL := help
.PHONY: help app test numerics models results data bench soak docs lint format lock wheel clean distclean
.SUFFIXES:
.DELETE_ON_ERROR:

help:  ## this list
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r t d; do printf '  make %-10s %s\n' "$$t" "$$d"; done

app: $(VENV)/.app  ## start the web lab on http://localhost:8501 (PORT=, HOST=, APP="--allow …" to change)
	@exec $(BIN)/cmai app --host $(HOST) --port $(PORT) $(APP)

test: $(VENV)/.test  ## run the whole test suite (ARGS= for pytest, WORKERS= processes)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

numerics: $(VENV)/.test  ## run the tests that compute again, as another processor would (CAPABILITY=, THREADS=, NUDGE=)
	ATEN_CPU_CAPABILITY=$(CAPABILITY) OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) CMAI_TEST_NUDGE=$(NUDGE) \
		$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m numerics $(ARGS)

models: $(VENV)/.app  ## train the bundled models from nothing, into runs/ (RECIPES=, HEADLESS=)
	set -e; for recipe in $(RECIPES); do \
		case $$recipe in \
			base|base-b|base-2) start= ;; \
			base-3) start="--base local-dir:runs/base-2/model" ;; \
			cmai-2-replay) start="--base local-dir:runs/base-3/model --seed 1 --set replay=local-dir:runs/cmai-2/model" ;; \
			*-2|*-2-*) start="--base local-dir:runs/base-3/model" ;; \
			*-b) start="--base local-dir:runs/base-b/model" ;; \
			cmai-replay) start="--base local-dir:runs/base/model --seed 1 --set replay=local-dir:runs/cmai/model" ;; \
			*) start="--base local-dir:runs/base/model" ;; \
		esac; \
		$(BIN)/cmai train --recipe $$recipe --out runs/$$recipe $$start; \
	done
	set -e; for recipe in $(filter $(HEADLESS),$(RECIPES)); do \
		$(BIN)/cmai train --recipe cmcv --out runs/$$recipe-heads --base local-dir:runs/$$recipe/model; \
	done
	@echo "The models lie in runs/<recipe>/model. To bundle one:"
	@echo "  cmai bundle runs/tecoa/model tabletop-tecoa --heads runs/tecoa-heads/model"

results: $(VENV)/.app  ## print the comparison of the defences from its published results
	$(BIN)/cmai compare report

data: $(VENV)/.app  ## generate and cache the Tabletop training data
	$(BIN)/cmai data

bench: $(VENV)/.test  ## measure speed, side by side with peers
	@ls benchmarks/bench_*.py >/dev/null 2>&1 || { echo "benchmarks/ has no bench_*.py to run."; exit 2; }
	set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script; done

soak: $(VENV)/.test  ## many visitors at once, five minutes (CMAI_SOAK_VISITORS, CMAI_SOAK_SECONDS): errors, waiting, memory
	$(BIN)/python benchmarks/soak.py

docs: $(VENV)/.docs  ## write the documentation site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "The site: build/site/index.html"

lint: $(VENV)/.dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check . || echo "note: 'make format' would change the files above"
	$(BIN)/mypy

format: $(VENV)/.dev  ## sort imports and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.dev  ## resolve requirements/lock.txt anew, for all supported Pythons and platforms
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --extra test --extra docs --extra dev --no-config --no-annotate \
		--default-index https://pypi.org/simple --custom-compile-command "make lock" --quiet pyproject.toml -o $(LOCK)

wheel: $(VENV)/.dev  ## build the wheel and the source archive into dist/
	$(BIN)/python -m build

clean:  ## remove what tests and builds left (keeps .venv and caches of data)
	rm -rf build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .coverage
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove .venv too
	rm -rf $(VENV)

# --- installation -----------------------------------------------------------------------------------------------------
# A stamp file says that an installation is complete; it is older than pyproject.toml or the lock when they change.

$(VENV)/.app: $(SOURCES) $(VENV)/.python
	$(call install,.)

$(VENV)/.test: $(SOURCES) $(VENV)/.python
	$(call install,.[test])
	@touch $(VENV)/.app

$(VENV)/.docs: $(SOURCES) $(VENV)/.python
	$(call install,.[docs])
	@touch $(VENV)/.app

$(VENV)/.dev: $(SOURCES) $(VENV)/.python
	$(call install,.[test$(comma)dev])
	@touch $(VENV)/.app $(VENV)/.test

define install
@echo "Installing into $(VENV) (the first time this takes a few minutes and about 6 GB)..."
@$(BIN)/python -m pip install --disable-pip-version-check -c $(LOCK) -e '$(1)'
@touch $@
endef

# Some systems ship Python without `ensurepip`: then the system's own pip puts pip into the new environment.
$(VENV)/.python:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do \
			if "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1; then python="$$candidate"; break; fi; \
		done; \
	fi; \
	if [ -z "$$python" ]; then \
		echo "CMAI needs Python 3.11, 3.12, 3.13 or 3.14, and none of them is on the PATH (python3 is: $$(python3 --version 2>&1))."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 app"; exit 2; \
	fi; \
	if ! "$$python" -c '$(SUPPORTED)' >/dev/null 2>&1; then \
		echo "$$python is not a Python 3.11 to 3.14 ($$("$$python" --version 2>&1)). Name another: make PYTHON=python3.12 app"; exit 2; \
	fi; \
	if [ ! -x $(BIN)/python ] || ! $(BIN)/python -c '$(SUPPORTED)' >/dev/null 2>&1 || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		if [ -d $(VENV) ] && [ ! -e $(VENV)/pyvenv.cfg ] && [ -n "$$(ls -A $(VENV))" ]; then \
			echo "$(VENV) exists and is not a virtual environment: move it away, or name another: make VENV=.venv-cmai app"; exit 2; \
		fi; \
		echo "Making $(VENV) with $$("$$python" --version 2>&1)..."; \
		rm -rf $(VENV); \
		"$$python" -m venv $(VENV) >/dev/null 2>&1 || { \
			rm -rf $(VENV); \
			"$$python" -m venv --without-pip $(VENV) && \
			"$$python" -m pip --disable-pip-version-check --python $(BIN)/python install --quiet pip; \
		} || { \
			rm -rf $(VENV); \
			echo "Could not make a virtual environment with $$python. On Debian and Ubuntu: apt install python3-venv python3-pip"; exit 2; \
		}; \
	fi; \
	touch $@

SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
