# make run    the mirror, on its defaults, in an environment of its own
# make test   everything that is checked, with what it needs installed first
# make demo   a pull through the mirror, missed and hit, in figures
# make bench  the mirror beside other caches, in figures; ONLY=ci for one measurement
# make reference   docs/configuration.md and config/mirror.toml, written from the settings
# make fuzz   inputs that nobody would send, COUNT=100000 of them
# make crash  kill -9 at any moment, 200 times
# make soak   pulls, faults, evictions and restarts against a model, for MINUTES=5

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

# The real registries and clients that tests run against: installed when that is possible, named when it is not.
.PHONY: programs
programs:
	@./tests/real/install $(PROGRAMS)

# The locks: hashes of every package, for every platform, and no address of where they come from.
lock:
	@$(BIN)/python -m uv pip compile --quiet pyproject.toml --group build --generate-hashes --no-emit-index-url \
		--no-header --universal --python-version 3.11 --output-file requirements/run.txt
	@$(BIN)/python -m uv pip compile --quiet pyproject.toml --group build --group test --group bench --group lock --generate-hashes \
		--no-emit-index-url --no-header --universal --python-version 3.11 \
		--constraint requirements/run.txt --output-file requirements/dev.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis bench/results
