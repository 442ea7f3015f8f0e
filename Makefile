# make run    the mirror, on its defaults, in an environment of its own
# make test   everything that is checked, with what it needs installed first
# make demo   a pull through the mirror, missed and hit, in figures
# make bench  the mirror beside other caches, in figures

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
PROGRAMS := docker-registry docker.io containerd podman skopeo nginx-light wrk busybox-static openssl ca-certificates

.PHONY: run test lint demo bench lock clean

run: .venv/run
	@$(BIN)/mirror serve

test: .venv/dev programs lint
	@$(BIN)/python -m pytest

lint: .venv/dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

demo: .venv/dev programs
	@$(BIN)/python -m bench.demo

bench: .venv/dev programs
	@$(BIN)/python -m bench

.venv/run: requirements/run.txt pyproject.toml
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes --requirement requirements/run.txt
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
