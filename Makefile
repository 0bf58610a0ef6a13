# nsbook's commands. `make` alone lists them.
# A virtual environment in .venv is made when first needed, and again when pyproject.toml changes.

# The first of these that is Python 3.11 or newer. Another one: make PYTHON=/path/to/python3 ...
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV ?= .venv
ARGS ?=
SETTINGS := $(wildcard binder/jupyter/*.json binder/jupyter/*/*.json)

.PHONY: help env lab test test-versions lint bench recordings clean

help:
	@echo 'make lab            open the book in JupyterLab (makes $(VENV) first)'
	@echo 'make test           run every test that this machine can run, and say what is missing for the others'
	@echo 'make test ARGS=...  run pytest with these arguments only'
	@echo 'make test-versions  the quick tests on the other Python versions that pyenv has'
	@echo 'make lint           ruff and mypy'
	@echo 'make bench          measure the speed against crun, runc and the budgets'
	@echo 'make recordings     run the chapters and keep what their cells show, for machines that can not'
	@echo 'make env            only make $(VENV), with all that the tests need'
	@echo 'make clean          remove $(VENV) and what the tools have cached'

env: $(VENV)/.test

# Two stamps, so that a reader who only wants the book does not wait for the test tools.
$(VENV)/.lab: pyproject.toml $(SETTINGS)
	$(call install,lab)

$(VENV)/.test: pyproject.toml $(SETTINGS)
	$(call install,test)
	@touch $(VENV)/.lab

define install
@[ -n "$(PYTHON)" ] || { echo 'nsbook needs Python 3.11 or newer, and found none in PATH. Debian, Ubuntu: apt install python3 python3-venv.' \
	'Another one: make PYTHON=/path/to/python3' >&2; exit 1; }
@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	echo 'Python'"'"'s venv module is missing for $(PYTHON). Debian, Ubuntu: apt install python3-venv.' >&2; exit 1; }
@echo 'Installing nsbook[$(1)] into $(VENV) ($(shell $(PYTHON) -V 2>&1); a few minutes the first time) ...'
@$(VENV)/bin/python -c pass 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-warn-script-location -e '.[$(1)]'
@mkdir -p $(VENV)/etc/jupyter && cp -R binder/jupyter/. $(VENV)/etc/jupyter/
@touch $@
endef

# No browser is opened where there is no screen. As root JupyterLab wants to be told that this is meant. On 127.0.0.1 it has
# one URL to print, not two. ARGS for others: make lab ARGS='--ServerApp.ip=0.0.0.0'
lab: $(VENV)/.lab
	@cd notebooks && exec ../$(VENV)/bin/python -m jupyterlab --LabApp.default_url=/lab/tree/00-welcome.ipynb \
		--LabApp.log_level=ERROR --ServerApp.log_level=ERROR --ServerApp.ip=127.0.0.1 \
		$$([ "$$(id -u)" != 0 ] || echo --allow-root) \
		$$([ -n "$$DISPLAY$$WAYLAND_DISPLAY$$BROWSER" ] || [ "$$(uname)" = Darwin ] || echo --no-browser) $(ARGS)

test: $(VENV)/.test
	@$(VENV)/bin/python tests/run.py $(ARGS)

lint: $(VENV)/.test
	@$(VENV)/bin/python tests/run.py --only-lint

# Unit tests that are quick and need no privilege, on each newer Python that pyenv has.
test-versions:
	@for v in 3.12 3.13; do \
		p=$$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$v.*/bin/python3 2>/dev/null | sort -V | tail -n 1); \
		[ -n "$$p" ] || { echo "Python $$v: pyenv has none, left out"; continue; }; \
		echo "Python $$v ($$p)"; \
		$(MAKE) --no-print-directory env PYTHON="$$p" VENV=.venv-$$v && .venv-$$v/bin/python tests/run.py --quick || exit 1; \
	done

bench: $(VENV)/.test
	@$(VENV)/bin/python tests/bench/run.py $(ARGS)

# As root: what the recordings hold is what the chapters' cells showed here, now.
recordings: $(VENV)/.test
	@NSBOOK_RECORD="$(CURDIR)/nsbook/book/recordings" $(VENV)/bin/python tests/notebooks/refresh.py

clean:
	rm -rf $(VENV) .venv-3.* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist tests/browser/artifacts
	find nsbook tests -name __pycache__ -prune -exec rm -rf {} +
