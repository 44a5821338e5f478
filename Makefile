# Everything a developer does. Needs Python 3.11 and make, nothing else.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
NODE := tests/providers/node
TYPESCRIPT := clients/typescript
NPM := PATH="$(CURDIR)/$(BIN):$$PATH" npm --no-audit --no-fund --ignore-scripts --loglevel=error --fetch-timeout=60000
WORKERS ?= $(if $(TEST_REDIS_URL),0,5)
ALONE := What failed beside other tests runs once more, alone and one after the other: a failure then counts.
IN_PARALLEL = -n $(WORKERS) --dist loadgroup --no-loadscope-reorder --durations=15
PIP := -m pip install --disable-pip-version-check --quiet

# A run of tests starts hundreds of processes: each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install run test test-fast test-long coverage faults bench bench-access bench-peers fuzz protos protos-check sync-client sync-client-check stubs languages check format lock clean
.DEFAULT_GOAL := test

install: $(VENV)/.dev  ## everything for development

$(VENV)/.run: locks/run.txt pyproject.toml
	@echo "installing flagsvc into $(VENV) (a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) --require-hashes -r locks/run.txt
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: locks/dev.txt clients/python/pyproject.toml $(VENV)/.run
	@echo "installing the tools for tests into $(VENV) (a minute or two the first time)"
	@$(BIN)/python $(PIP) --require-hashes -r locks/dev.txt
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation -e clients/python
	@touch $@

$(NODE)/node_modules/.installed: $(NODE)/package-lock.json | $(VENV)/.dev
	@echo "installing the Node provider for tests (seconds)"
	@cd $(NODE) && $(NPM) ci
	@touch $@

$(TYPESCRIPT)/node_modules/.installed: $(TYPESCRIPT)/package-lock.json | $(VENV)/.dev
	@echo "installing what the TypeScript client is built with (seconds)"
	@cd $(TYPESCRIPT) && $(NPM) ci
	@touch $@

run: $(VENV)/.run  ## serve the embedded store with a few example flags on 127.0.0.1:8013
	@mkdir -p data
	@$(BIN)/flagsvc import --examples --if-empty --store sqlite:///data/flagsvc.db
	@printf '\nserving on 127.0.0.1:8013; in another terminal try:\n'
	@printf '  %s/flagsvc %s\n' $(BIN) 'evaluate checkout-v2' $(BIN) 'toggle checkout-v2 off' $(BIN) 'watch' $(BIN) '--help'
	@printf 'Ctrl-C ends it.\n\n'
	@exec $(BIN)/flagsvc serve --store sqlite:///data/flagsvc.db --cache none --host 127.0.0.1

test: $(VENV)/.dev $(NODE)/node_modules/.installed $(TYPESCRIPT)/node_modules/.installed  ## every test, five at a time, on real mongods and redis-servers
	@$(BIN)/python -m compileall -q -j 2 -x '/test_|node_modules' flagsvc clients/python tests
	@TEST_SHARE=0.25 ORACLE_CASES=5000 $(BIN)/python -m pytest $(IN_PARALLEL) -m "not long" || { [ $$? = 1 ] && printf '%s\n' '$(ALONE)' && \
		$(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

test-fast: WORKERS = $(if $(TEST_REDIS_URL),0,3)
FAST := $(addprefix tests/,unit property conformance revisions schedules rollouts answers ofrep faults)

test-fast: $(VENV)/.dev  ## what needs no mongod and does not wait: units, properties with few cases, stores and services on SQLite, OFREP
	TEST_SHARE=0.1 ORACLE_CASES=2000 $(BIN)/python -m pytest $(IN_PARALLEL) -m "not mongod and not long" $(FAST) \
		--ignore tests/faults/test_run.py --ignore tests/faults/test_elections.py \
		--ignore tests/ofrep/test_web_provider.py --ignore tests/ofrep/test_same_answers.py --ignore tests/rollouts/test_engines.py

UNMEASURED := faults holes model documents examples languages typescript providers fuzz lag jsonlogic_js e2e/test_outages.py \
	e2e/test_sync_load.py e2e/test_overload.py integration/test_mongo_change_stream_faults.py integration/test_lease_at_every_bound.py

# Measuring costs half of the speed, so what loads the machine or has tight times is left out; a test that fails is for `make test`.
coverage: $(VENV)/.dev $(NODE)/node_modules/.installed  ## how much of the code the tests run, branches too; fails below the floor
	@rm -f .coverage .coverage.*
	TEST_SHARE=0.25 ORACLE_CASES=2000 $(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder -o timeout=300 -m "not long" \
		--cov --cov-report= --cov-fail-under=0 $(addprefix --ignore tests/,$(UNMEASURED)) || [ $$? = 1 ]
	@$(BIN)/coverage report

test-long: FAULTS_SECONDS ?= 600
test-long: $(VENV)/.dev $(NODE)/node_modules/.installed  ## 200,000 rules each beside flagd-core and json-logic-js, ten minutes of faults, the larger worlds of the model, end-to-end tests over the native transport; 40 minutes
	TEST_SHARE=10 ORACLE_CASES=200000 JSONLOGIC_CASES=200000 $(BIN)/python -m pytest -n 2 --dist loadgroup tests/property tests/jsonlogic_js
	FAULTS_SECONDS=$(FAULTS_SECONDS) $(BIN)/python -m tests.faults
	$(BIN)/python -m tests.model --large
	$(BIN)/python -m pytest $(IN_PARALLEL) -m long
	TEST_TRANSPORT=native $(BIN)/python -m pytest $(IN_PARALLEL) -m "not long and not grpcio" tests/e2e tests/providers

bench: $(VENV)/.dev  ## the engine beside flagd-core; MongoDB alone, Redis before it, near cache before both; the client's budgets; overload; remembered answers; how cost grows
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.tiers
	$(BIN)/python -m benchmarks.client
	$(BIN)/python -m benchmarks.overload
	$(BIN)/python -m benchmarks.answers_cost
	$(BIN)/python -m benchmarks.answers
	$(BIN)/python -m benchmarks.growth

bench-peers: $(VENV)/.dev  ## flagd beside flagsvc; needs h2load on PATH, and flagd on PATH or as FLAGD=PATH
	$(BIN)/python -m benchmarks.peers $(if $(FLAGD),--flagd $(FLAGD))

bench-access: $(VENV)/.dev  ## revocation, rate limits, certificates that change, and what access control costs
	$(BIN)/python -m benchmarks.revocation
	$(BIN)/python -m benchmarks.rate_limits
	$(BIN)/python -m benchmarks.certificates
	$(BIN)/python -m benchmarks.access_cost

faults: $(VENV)/.dev  ## random faults on real replicas and servers, judged from the record; FAULTS_SECONDS, FAULTS_SEED
	$(BIN)/python -m tests.faults

FUZZ_SECONDS ?= 60

.venv-fuzz/.done: locks/run.txt
	@echo "installing the fuzzer into .venv-fuzz (a minute the first time)"
	@test -x .venv-fuzz/bin/python || $(PYTHON) -m venv .venv-fuzz
	@.venv-fuzz/bin/python $(PIP) --require-hashes -r locks/run.txt
	@.venv-fuzz/bin/python $(PIP) atheris==3.0.0 openfeature-flagd-core==2.0.0
	@touch $@

FUZZ_CALLS ?= 100000

fuzz: $(VENV)/.dev .venv-fuzz/.done  ## random calls of every RPC and route, FUZZ_CALLS; rules and flag files from random bytes, FUZZ_SECONDS each; findings stay in .fuzz
	@mkdir -p .fuzz/rules .fuzz/files
	$(BIN)/python -m tests.fuzz.calls --calls $(FUZZ_CALLS)
	PYTHONPATH=. .venv-fuzz/bin/python tests/fuzz/fuzz_rules.py .fuzz/rules -artifact_prefix=.fuzz/ -max_total_time=$(FUZZ_SECONDS)
	PYTHONPATH=. .venv-fuzz/bin/python tests/fuzz/fuzz_files.py .fuzz/files -artifact_prefix=.fuzz/ -max_total_time=$(FUZZ_SECONDS)

check: $(VENV)/.dev protos-check sync-client-check  ## linters, types, layers, contract, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv-protos/.done: locks/protos.txt
	@test -x .venv-protos/bin/python || $(PYTHON) -m venv .venv-protos
	@.venv-protos/bin/python $(PIP) --require-hashes -r locks/protos.txt
	@touch $@

protos: .venv-protos/.done  ## generate the stubs of server and Python client from protos/
	.venv-protos/bin/python protos/generate.py

protos-check: .venv-protos/.done
	.venv-protos/bin/python protos/generate.py --check

sync-client: $(VENV)/.dev  ## generate the synchronous Python client from the asyncio one
	$(BIN)/python clients/python/generate_sync.py

sync-client-check: $(VENV)/.dev
	$(BIN)/python clients/python/generate_sync.py --check

stubs: .venv-protos/.done $(TYPESCRIPT)/node_modules/.installed  ## stubs into clients/stubs; LANGUAGES=go,java,typescript,python
	@PATH="$(CURDIR)/$(BIN):$$PATH" .venv-protos/bin/python clients/stubs.py $(LANGUAGES)

languages: stubs $(NODE)/node_modules/.installed  ## unmodified clients and samples of every language whose toolchain is here; downloads what they need
	WITH_DOWNLOADS=1 $(BIN)/python -m pytest tests/languages

lock:  ## pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --group pyproject.toml:build -o locks/run.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --group pyproject.toml:dev -o locks/dev.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --extra native -c locks/run.txt -o locks/native.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group pyproject.toml:protos -o locks/protos.txt
	cd $(NODE) && $(NPM) install --package-lock-only --omit-lockfile-registry-resolved
	cd $(TYPESCRIPT) && $(NPM) install --package-lock-only --omit-lockfile-registry-resolved
	cd tests/languages/node && $(NPM) install --package-lock-only --omit-lockfile-registry-resolved

clean:
	rm -rf .venv .venv-protos .venv-fuzz .fuzz data $(NODE)/node_modules
	rm -rf tests/languages/*/build tests/languages/*/target tests/languages/node/node_modules
	rm -rf clients/stubs clients/java/target $(TYPESCRIPT)/node_modules $(TYPESCRIPT)/dist $(TYPESCRIPT)/src/gen
