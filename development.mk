# Targets of the framework itself, beside those that every project has
.PHONY: bench bench-peers docs screenshots site site-packages wheel nightly notes publish release
FRAMEWORK := .
WHEELS := dist
TYPES := mypy
VERSION := $(shell sed -n 's/^version = //p' settings.ini)
# CI measures coverage where Python itself reports which lines ran (sys.monitoring, from 3.12 on): a tracer takes more time
# than the tests. The floor is in .coveragerc
ifdef REQUIRE_SERVICES
export COVERAGE_CORE := sysmon
COVERAGE = $(shell $(BIN)/python -c 'import sys; print("--cov --cov-report=term:skip-covered" * (sys.version_info > (3, 12)))')
endif

# Every night: what takes longest, beside what CI runs
nightly: export REQUIRE_SERVICES := 1
nightly: export OMP_NUM_THREADS := 1
nightly: .venv/complete ## the tests that take longest (CI leaves them out)
	pytest tests $(PARALLEL) -m nightly

bench: .venv/complete ## measure builds, the command line and the service, each against a peer
	@python -m benchmarks.run

bench-peers: .venv/complete ## measure the service against MLflow, BentoML and MLServer, each in an environment of its own
	@python -m benchmarks.run peers

docs: .venv/complete ## write the pages of docs/ that are made from the code
	@python docs/generate.py

screenshots: .venv/complete ## play the demo and take the pictures of docs/pictures (needs chromium)
	@python docs/screenshot.py

docs/requirements.lock: settings.ini requirements.lock
	@sed -n '/^site_requirements/,/^$$/s/^    //p' settings.ini | grep -v '^#' | \
	  $(COMPILE) - --constraint requirements.lock -o $@

# What builds the site is installed for it alone
site-packages: .venv/complete
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r docs/requirements.lock

optional: site-packages

# A notebook is executed anew where it has changed; EXECUTE=off shows all without outputs
EXECUTE := cache
site: site-packages ## build the documentation site into build/site, offline
	@python docs/site/gallery.py
	@sphinx-build --quiet --fail-on-warning --keep-going -c docs/site -D nb_execution_mode=$(EXECUTE) . build/site
	@echo 'build/site/index.html'

wheel: .venv/installed ## build the wheel of the framework into dist/
	@rm -rf dist
	@pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

notes: ## print the section of CHANGELOG.md for this version, which must be closed
	@awk '/^## /{on = $$2 == "$(VERSION)" && !/unreleased/} on{print; found = 1} END{exit !found}' CHANGELOG.md || \
	  { echo "CHANGELOG.md has no closed section for $(VERSION)" >&2; exit 1; }

# In an environment that has uv alone, by the hashes of the lock: no other package is beside what may publish
publish: ## upload the wheel in dist/ to PyPI, as the workflow that PyPI trusts
	@$(PYTHON) -m venv dist/venv
	@sed -n '/^uv==/,/# via/p' requirements.lock > dist/venv/uv.lock
	@dist/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r dist/venv/uv.lock
	@dist/venv/bin/uv publish --trusted-publishing always dist/*.whl

release: ## tag this commit and make a GitHub release of the wheel in dist/
	@$(MAKE) --no-print-directory notes > dist/notes.md
	@gh release create v$(VERSION) dist/*.whl --target $$(git rev-parse HEAD) --title v$(VERSION) --notes-file dist/notes.md

image: wheel
