# make run        start the mirror with defaults, in its own Python environment
# make test       run every check, after installing its prerequisites
# make lint       run ruff and mypy only
# make demo       pull an image through the mirror, a miss and a hit, with figures
# make bench      measure the mirror beside other caches; ONLY=ci runs one measurement
# make reference  generate docs/configuration.md, config/mirror.toml and the docstring of mirror/__init__.py
# make fuzz       send COUNT=100000 hostile inputs
# make crash      kill -9 the mirror at chosen moments, 200 rounds
# make soak       run pulls, faults, evictions and restarts against a model for MINUTES=5
# make lock       renew the locks in requirements/

PYTHON ?= python3
MINUTES ?= 5
COUNT ?= 100000
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
PROGRAMS := docker-registry docker.io containerd podman skopeo nginx-light wrk busybox-static openssl ca-certificates \
	iproute2 curl procps prometheus systemd docker-compose $(if $(shell command -v kubectl),,kubernetes-client)

.PHONY: run test lint demo bench reference fuzz crash soak lock clean

run: .venv/run
	@$(BIN)/mirror serve

test: .venv/dev programs lint
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

demo: .venv/dev programs
	@$(BIN)/python -m bench.demo

bench: .venv/dev programs
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY))

reference: .venv/dev
	@$(BIN)/python -m tests.docs.reference
	@$(BIN)/python -m tests.layers

fuzz: .venv/dev programs
	@$(BIN)/python -m tests.fuzz --count $(COUNT)

crash: .venv/dev
	@CRASH_ROUNDS=200 $(BIN)/python -m pytest -q -s tests/crash

soak: .venv/dev
	@$(BIN)/python -m tests.soak --minutes $(MINUTES)

.venv/run: requirements/run.txt pyproject.toml
	@echo "make: creating the environment .venv"
	@$(PYTHON) -m venv .venv
	@echo "make: installing the packages of requirements/run.txt; this takes about a minute"
	@$(PIP) --require-hashes --requirement requirements/run.txt
	@echo "make: installing the mirror"
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements/dev.txt .venv/run
	@$(PIP) --require-hashes --requirement requirements/dev.txt
	@touch $@

# Install the real registries and clients that tests use, as root on Debian; otherwise each test names a missing program.
.PHONY: programs
programs:
	@./tests/real/install $(PROGRAMS)

# Lock files with hashes of every package for every platform, without the address of an index.
lock:
	@$(BIN)/python -m uv pip compile --quiet pyproject.toml --group build --generate-hashes --no-emit-index-url \
		--no-header --universal --python-version 3.11 --output-file requirements/run.txt
	@$(BIN)/python -m uv pip compile --quiet pyproject.toml --group build --group test --group bench --group lock --generate-hashes \
		--no-emit-index-url --no-header --universal --python-version 3.11 \
		--constraint requirements/run.txt --output-file requirements/dev.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis bench/results
