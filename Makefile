# hapredict on one machine. `make` lists the targets; each does its own set-up.

VENV := .venv
PY := $(VENV)/bin/python
DONE := $(VENV)/.installed
BENCH := .venv-bench
SERVERS := serve kserve mlserver

.DEFAULT_GOAL := help
.PHONY: help install demo drills test check bench bench-train bench-serve bench-drift clean

help: ## what each target does
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

install: $(DONE) ## the virtual environment .venv, from pinned versions

# Renewed when the dependencies change; the stamp is written last, so half an install is none.
$(DONE): pyproject.toml constraints.txt
	@set -eu; \
	is_311() { "$$1" -c 'import sys, ssl, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }; \
	rm -f $(DONE); \
	if ! is_311 $(PY); then \
	  chosen=; \
	  for candidate in $(PYTHON) python3.11 python3 python /usr/bin/python3.11; do \
	    if is_311 "$$candidate"; then chosen=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    echo "hapredict needs Python 3.11 with venv, and found none as python3.11 or python3." >&2; \
	    echo "Install it, or say where it is: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	  fi; \
	  "$$chosen" -m venv --clear $(VENV); \
	fi; \
	echo "Installing into $(VENV): about 3 GB, mostly TensorFlow and Ray; some minutes, once."; \
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'; \
	touch $(DONE)

demo: $(DONE) ## the whole loop on a year of real flights (KEEP=1 leaves the service up)
	$(PY) jobs/demo.py $(if $(KEEP),--keep)

drills: $(DONE) ## every fault of levels 1 to 3 on three nodes of namespaces (needs root)
	$(PY) jobs/drills.py --write

CLUSTERS := ray or chaos or docs

# All side by side: a process a core, or two with a cluster each, whose tests wait as much as compute.
test: $(DONE) ## every test, with coverage (ARGS="-k words" for some)
	@$(call some,-n auto -m "not ($(CLUSTERS))" --cov --cov-report=)
	@$(call some,-n 2 --dist loadfile --no-loadscope-reorder -m "$(CLUSTERS)" --cov --cov-append --cov-report=term:skip-covered)

# With ARGS there may be nothing to run in one of the halves, which pytest says with 5.
some = $(PY) -m pytest $(1) $(ARGS) || { code=$$?; $(if $(strip $(ARGS)),test $$code -eq 5 || )exit $$code; }

check: $(DONE) ## lint, format, types, floors
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_floors.py

bench: $(DONE) ## every script in benchmarks/, one after another
	@set -eu; found=; \
	for script in benchmarks/*.py; do \
	  case $$script in *'*.py'|*/train_*|*/serve_*|*/drift_*|*/bench_*) continue;; esac; \
	  found=yes; echo "== $$script"; $(PY) "$$script"; \
	done; \
	[ -n "$$found" ] || echo "benchmarks/ holds no script"

# The peers live apart: they are heavy and disagree about versions. --no-deps leaves out the GPU
# parts of PyTorch that it starts without; the others it cannot be loaded without, GPU or not.
$(BENCH)/.installed: constraints-bench.txt $(DONE)
	@set -eu; rm -rf $(BENCH); $(PY) -m venv $(BENCH); \
	echo "Installing the peers into $(BENCH): about 5 GB, mostly PyTorch; some minutes, once."; \
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<; \
	touch $@

bench-train: $(BENCH)/.installed ## training speed against PyTorch, JAX and others (ROUNDS=5)
	$(PY) benchmarks/train_speed.py

# Servers whose pins clash live in environments of their own; the lists name all that they load.
$(SERVERS:%=.venv-bench-%/.installed): .venv-bench-%/.installed: constraints-bench-%.txt $(DONE)
	@set -eu; rm -rf .venv-bench-$*; $(PY) -m venv .venv-bench-$*; \
	echo "Installing servers to compare with into .venv-bench-$*: about 1 GB; some minutes, once."; \
	.venv-bench-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<; \
	touch $@

bench-serve: $(SERVERS:%=.venv-bench-%/.installed) ## serving against FastAPI and others (ARGS="--rounds 3")
	$(PY) benchmarks/serve_speed.py $(ARGS)

# River lives apart: nothing that runs or is tested needs it.
.venv-bench-drift/.installed: constraints-bench-drift.txt $(DONE)
	@set -eu; rm -rf .venv-bench-drift; $(PY) -m venv .venv-bench-drift; \
	.venv-bench-drift/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<; \
	touch $@

bench-drift: .venv-bench-drift/.installed ## detectors against rules and river's (ARGS="--seeds 5")
	$(PY) benchmarks/detectors.py --peers .venv-bench-drift/bin/python $(ARGS)

clean: ## back to a fresh clone; hapredict's home .hapredict, which holds models, stays
	rm -rf $(VENV) $(BENCH) $(SERVERS:%=.venv-bench-%) .venv-bench-drift .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist out
	rm -rf src/hapredict.egg-info
	find . -path ./.git -prune -o -name __pycache__ -prune -exec rm -rf {} +
