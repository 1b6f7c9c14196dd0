# One command for each task. Needs python3 (3.11 or newer), make and a package index; everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# make test TESTS="tests/unit -k settings"
TESTS ?= -m "not gate and not nightly and not variant"
HOURS ?= 2
# Number of parallel test processes, more than cores because tests wait; 0: only one.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(8, 2 * (os.cpu_count() or 1)))')
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-strip-extras --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup demo unit test lint check ci bench bench-peers simulation clusters soak format lock vendor build sbom image-test clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## create the environment (.venv); the other commands do it when needed

$(READY): requirements-dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found. Install Python 3.11 or newer." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		"$(PYTHON) is $$($(PYTHON) -V 2>&1); 3.11 or newer is needed. If you have a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
		"$(PYTHON) cannot create virtual environments. Install its venv module (Debian: apt-get install python3-venv)." >&2; exit 1; }
	@echo "Creating $(VENV) with the locked dependencies (once; about a minute) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --require-hashes --requirement requirements-dev.txt
	@$(PIP) install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

demo: $(READY) ## show events on their way from commit to delivery, on SQLite, against a stand-in for Vercel (DEMO=--console: also as web pages)
	@$(BIN)/dispatcher demo $(DEMO)

unit: $(READY) ## run the tests that need no database, in seconds
	@$(BIN)/python -m pytest -n $(WORKERS) tests/unit

test: $(READY) ## run the tests that need only Python, in minutes
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(TESTS)

lint: $(READY) ## check format, lint rules, types, layers, spelling and secrets
	@echo "── format" && $(BIN)/ruff format --check .
	@echo "── lint" && $(BIN)/ruff check .
	@echo "── types" && $(BIN)/mypy
	@echo "── layers" && $(BIN)/lint-imports
	@echo "── spelling" && $(BIN)/codespell
	@echo "── secrets" && .ci/scan_secrets

check: lint test ## run lint and test: both must pass before a change is done

ci: ## run the gate as CI does, in a fresh clone of HEAD (Debian); build/ci-passed names the last commit that passed
	@.ci/in_fresh_clone

bench: $(READY) ## measure the speed (Debian: postgresql, mariadb-server, nginx-light); BENCH="drain latency" runs some of it
	@$(BIN)/python -m tests.benchmarks $(BENCH)

bench-peers: $(READY) ## measure other queues on PostgreSQL, compared with the dispatcher (also needs npm)
	@$(BIN)/python -m tests.benchmarks.peers $(BENCH)

clusters: $(READY) ## prove the law on live clusters (Debian, root: galera-4, mariadb-server, postgresql, patroni, etcd-server, haproxy, faketime, rsync)
	@$(BIN)/python -m pytest tests/clusters

soak: $(READY) ## prove the law under random faults for HOURS=2 on every database (Debian, root: mariadb-server, postgresql)
	@$(BIN)/python -m tests.soak --hours $(HOURS)

simulation: $(READY) ## simulate up to 300 dispatchers and a million installations; SCENARIOS="busy outage" runs some of it
	@$(BIN)/python -m tests.simulation $(SCENARIOS)

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

lock: $(READY) ## update the pinned dependencies and hashes (LOCK_FLAGS=--upgrade takes newer versions)
	@$(LOCK) $(LOCK_FLAGS) pyproject.toml --extra service --extra postgres --extra mysql --output-file requirements.txt
	@$(LOCK) $(LOCK_FLAGS) pyproject.toml --all-extras --group dev --constraints requirements.txt --output-file requirements-dev.txt
	@$(LOCK) $(LOCK_FLAGS) --group build --constraints requirements-dev.txt --output-file requirements-build.txt
	@cd tests/benchmarks/peers/adapters && $(CURDIR)/$(LOCK) $(LOCK_FLAGS) requirements.in --output-file requirements.txt

vendor: $(READY) ## fetch the console's files from other projects (needs npm), pinned in dispatcher/console/static/vendored.json
	@$(BIN)/python .ci/vendor.py

build: $(READY) ## build the wheel and the source archive in dist/
	@$(BIN)/hatchling build

sbom: $(READY) ## list what an installation from the lock file holds, in CycloneDX, in build/sbom.json
	@rm -rf build/sbom && mkdir -p build/sbom
	@$(BIN)/python -m venv --without-pip build/sbom/environment
	@$(PIP) --python build/sbom/environment/bin/python install --quiet --require-hashes --only-binary :all: \
		--report build/sbom/packages.json --requirement requirements.txt
	@$(BIN)/hatchling build --target wheel --directory build/sbom >/dev/null
	@$(PIP) --python build/sbom/environment/bin/python install --quiet --no-index --no-deps build/sbom/*.whl
	@build/sbom/environment/bin/python deploy/sbom.py --report build/sbom/packages.json >build/sbom.json

image-test: $(READY) ## build the image without a Docker engine and run it (Debian, root: buildah, debootstrap)
	@deploy/image_test.sh

clean: ## remove all generated files, .venv too
	@rm -rf $(VENV) build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
