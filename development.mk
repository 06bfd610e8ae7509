# Targets of the framework itself, beside those that every project has
.PHONY: bench bench-peers docs

bench: .venv/installed ## measure builds, the command line and the service, each against a peer
	@python -m benchmarks.run

bench-peers: .venv/installed ## measure the service against MLflow, BentoML and MLServer, each in an environment of its own
	@python -m benchmarks.run peers

docs: .venv/installed ## write the pages of docs/ that are made from the code
	@python docs/generate.py
