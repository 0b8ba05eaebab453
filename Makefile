# `make bench` and `make test` are all that a machine with Rust needs; both install what is missing first.
# Works with GNU make from 3.81 on.

# A shell that was open when Rust was installed does not have cargo in its PATH yet.
CARGO  ?= $(shell command -v cargo >/dev/null 2>&1 && echo cargo || echo "$$HOME/.cargo/bin/cargo")
PYTHON ?= python3
DEMO   := kiln-runs/demo
# mdBook of this version is built where there is none in PATH.
MDBOOK := 0.5.4

# Other libraries that are smoke-tested: some that install without a compiler, in seconds. Empty: all of them.
PEER_LIBRARIES := faiss usearch voyager
PEERS          := faiss-ivf faiss-hnsw usearch voyager

.DEFAULT_GOAL := help
# The steps of a target run in the order in which they are named, under `make -j` too.
.NOTPARALLEL:
.PHONY: help setup setup-test bench bench-kernels test fmt check-fmt clippy docs book check-scripts check-kernels doc-tests \
  check-peers test-all tests gpu-check

help:
	@echo 'make bench   build kiln, measure both indexes on the built-in data set, write a report'
	@echo 'make bench-kernels   each kernel beside the measured peak of this machine, in a minute'
	@echo 'make gpu-check   the bundle that proves and measures the CUDA backend on a machine with a GPU'
	@echo 'make test    formatting, lints, documentation, scripts, CUDA kernels, three peers, then all tests'
	@echo 'make test-all   the same with all peers: installs every library, for some minutes and gigabytes'
	@echo 'make setup   install the system packages that are missing (bench and test do this by themselves)'
	@echo 'make fmt     format the Rust sources'
	@echo 'make docs    build the API documentation; warnings are errors'
	@echo 'make book    build the book of docs/ into target/book (its commands are run by the tests)'

setup:
	@sh scripts/setup.sh

setup-test:
	@sh scripts/setup.sh --test

bench: setup
	$(CARGO) build --release
	rm -rf $(DEMO)
	target/release/kiln bench --out $(DEMO)
	@echo "The report is $(CURDIR)/$(DEMO)/report.html: one file, open it in a browser."

# The kernels crate needs no system package.
bench-kernels:
	$(CARGO) bench -p kiln-kernels

# The tests come last, so that the last lines printed are their summary.
test: setup-test check-fmt check-scripts check-kernels clippy docs doc-tests check-peers tests

test-all: PEER_LIBRARIES :=
test-all: PEERS :=
test-all: test

fmt: setup-test
	$(CARGO) fmt

check-fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs: setup
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

book:
	@mdbook=mdbook; \
	if ! command -v mdbook >/dev/null 2>&1; then \
	  mdbook=target/mdbook/bin/mdbook; \
	  test -x $$mdbook || $(CARGO) install mdbook --locked --version $(MDBOOK) --no-default-features --features search \
	    --root target/mdbook || exit 1; \
	fi; \
	$$mdbook build docs
	@echo "The book is $(CURDIR)/target/book/index.html."

# Every Python file must compile; those that offer --selftest run it, and say so if they cannot.
check-scripts:
	@if ! command -v $(PYTHON) >/dev/null 2>&1; then \
	  echo "SKIPPED: the Python scripts were not checked, there is no $(PYTHON)" >&2; exit 0; \
	fi; \
	for file in $$(find . \( -name target -o -name '.*' ! -name . \) -prune -o -name '*.py' -print | sort); do \
	  echo "checking $$file"; \
	  $(PYTHON) -c 'import sys; path = sys.argv[1]; compile(open(path, "rb").read(), path, "exec")' "$$file" || exit 1; \
	  if grep -q -e '"--selftest"' "$$file"; then $(PYTHON) -B "$$file" --selftest || exit 1; fi; \
	done

# The embedded CUDA kernels are those of the sources, and compile again to the same bytes. Without Python nothing can be
# checked; without the toolchain from PyPI the second half cannot, which is a failure where KILN_REQUIRE names nvrtc.
check-kernels:
	@if ! command -v $(PYTHON) >/dev/null 2>&1; then \
	  echo "SKIPPED: the CUDA kernels were not checked, there is no $(PYTHON)" >&2; exit 0; \
	fi; \
	sh scripts/build_kernels.sh --check && $(PYTHON) -B scripts/gpu_check/record.py --list --check || exit 1; \
	if sh scripts/build_kernels.sh --install; then \
	  sh scripts/build_kernels.sh --verify; \
	else \
	  case ",$$KILN_REQUIRE," in *,nvrtc,*) exit 1 ;; esac; \
	  echo "SKIPPED: the CUDA kernels were not compiled: NVRTC could not be installed with pip" >&2; \
	fi

# Other libraries build, search and are judged, by the protocol of docs/peers.md, on the built-in data set. Without Python,
# or where a library cannot be installed, that is a failure where KILN_REQUIRE names peers. The binary is $(KILN), or that of
# the tests, which `tests` would build otherwise.
check-peers:
	@skip() { \
	  case ",$$KILN_REQUIRE," in *,peers,*) echo "error: $$1, and KILN_REQUIRE names peers" >&2; exit 1 ;; esac; \
	  echo "SKIPPED: the peers were not tested: $$1" >&2; exit 0; \
	}; \
	command -v $(PYTHON) >/dev/null 2>&1 || skip "there is no $(PYTHON)"; \
	if ! PYTHON=$(PYTHON) CARGO=$(CARGO) scripts/peers/setup.sh $(PEER_LIBRARIES); then \
	  none=$$(skip "a library could not be installed" 2>&1) || { echo "$$none" >&2; exit 1; }; \
	  if [ -n "$(PEERS)" ]; then echo "$$none" >&2; exit 0; fi; \
	  echo "SKIPPED: peers whose library could not be installed: the lines above name them" >&2; \
	fi; \
	[ -n "$$KILN" ] || $(CARGO) test --workspace --no-run || exit 1; \
	$(PYTHON) -B scripts/peers/smoke.py $(PEERS) --adapter voyager

gpu-check: setup
	sh scripts/gpu_check.sh

doc-tests:
	$(CARGO) test --workspace --doc

tests:
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  echo "$(CARGO) nextest run --workspace"; $(CARGO) nextest run --workspace; \
	else \
	  echo "$(CARGO) test --workspace --all-targets"; $(CARGO) test --workspace --all-targets; \
	fi
