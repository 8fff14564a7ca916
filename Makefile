# make run    execute every lesson into build/ (an HTML page each, an index)
# make test   everything: builds, style, tests, every notebook re-run and compared
# make lab    open JupyterLab on my/, your own copies, with the first lesson in it
# make bench  measure speed against the reference implementations
# make recorded  the course's runs that are missing or were made on a CPU (GPU: minutes each)
# make gpu MINUTES=14 OUT=folder  tests, speeds and recorded runs on a GPU, in a given time
# Each makes .venv first if it is missing. Another Python: make run PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
NEEDS := pyproject.toml constraints.txt Makefile
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test lab bench recorded gpu mutants clean

run: .venv/run.stamp
	$(BIN)/lessons run

lab: .venv/run.stamp
	$(BIN)/lessons lab

test: .venv/test.stamp
	@start=$$(date +%s); $(BIN)/python tests/run_all.py && \
	echo "make test took $$(( $$(date +%s) - start )) s"

bench: .venv/test.stamp
	$(BIN)/python -m bench

# Where there is no .venv, the machine's own Python will do: it needs no Jupyter.
recorded:
	if test -x $(BIN)/lessons; then $(BIN)/lessons record; else $(PYTHON) -m lessons.kit.training.recorded; fi

# All that only a GPU can show, in MINUTES, brought together in OUT: equality, speed, recorded runs.
gpu:
	$$(test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON)) -m bench.gpu \
	  --minutes $(or $(MINUTES),14) $(if $(OUT),--out $(OUT)) $(GPU)

# Which small edits of the package does no test notice? Two hundred of them take an hour or so.
mutants: .venv/test.stamp
	$(BIN)/python -m bench.mutants $(MUTANTS)

clean:
	rm -rf .venv build

# The package, what its notebooks need, and this Python as their kernel. panopticapi-lite comes
# without its dependencies: it asks for a numpy below 2, and does not need it. A .venv whose
# making failed half-way (Debian without python3-venv) is taken away again.
.venv/run.stamp: $(NEEDS)
	@test -x $(BIN)/python || \
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	{ echo "$(PYTHON) is not Python 3.11, 3.12, 3.13 or 3.14: name another one, as in make run PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	{ rm -rf .venv; echo "no virtual environment could be made (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "Installing into .venv: about 5 GB with the default wheels of torch, two minutes on a fast line."
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[course]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps panopticapi-lite
	@touch $@

.venv/test.stamp: .venv/run.stamp
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@
