# Targets of the framework itself, beside those that every project has
.PHONY: bench bench-peers docs wheel nightly
FRAMEWORK := .
WHEELS := dist
TYPES := mypy

# Every night: what takes longest, beside what CI runs
nightly: export REQUIRE_SERVICES := 1
nightly: export OMP_NUM_THREADS := 1
nightly: .venv/installed ## the tests that take longest (CI leaves them out)
	pytest tests $(PARALLEL) -m nightly

bench: .venv/installed ## measure builds, the command line and the service, each against a peer
	@python -m benchmarks.run

bench-peers: .venv/installed ## measure the service against MLflow, BentoML and MLServer, each in an environment of its own
	@python -m benchmarks.run peers

docs: .venv/installed ## write the pages of docs/ that are made from the code
	@python docs/generate.py

wheel: .venv/installed ## build the wheel of the framework into dist/
	@rm -rf dist
	@pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

image: wheel
