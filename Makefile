# Sifaka. `make` alone lists the targets; CONTRIBUTING.md says more about each.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# Arguments of sifaka-bench, for `make bench`.
BENCH ?=
SIFAKA = target/release/sifaka
# Lemur's names: the program behaves as the one whose name it is called by.
LINKS_BIN = lhsm
LINKS_SBIN = lhsmd
LINKS_LIBEXEC = lhsm-plugin-posix lhsm-plugin-s3 lhsm-plugin-az lhsm-plugin-noop

.DEFAULT_GOAL := help
.PHONY: help build demo test soak bench check fmt lint doc install clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the release binary, target/release/sifaka
	$(CARGO) build --release --locked --package sifaka-cli

demo: build ## Archive, release and restore a real tree on a filesystem made for it (as root)
	$(SIFAKA) demo

test: ## Run all tests (as root: they mount loop devices); installs what they need
	scripts/install-test-deps
	scripts/install-test-servers
	scripts/install-cargo-tools nextest
	$(CARGO) test --doc --workspace --locked
	$(CARGO) nextest run --workspace --locked

soak: ## Run the long tests: more rounds of races and kills (as root; an hour or more)
	scripts/install-test-deps
	scripts/install-test-servers
	scripts/install-cargo-tools nextest
	SIFAKA_SOAK=1 $(CARGO) nextest run --workspace --locked --profile soak

bench: build ## Run the benchmarks and write bench/RESULTS.md (as root); BENCH="--quick small" runs less
	scripts/install-test-deps
	scripts/install-bench-peers
	$(CARGO) bench --locked --package sifaka-bench -- $(BENCH)

check: ## What CI runs: formatting, lints, licences, documentation, tests
	.ci/run

fmt: ## Format the sources
	$(CARGO) fmt --all

lint: ## clippy with warnings denied, and cargo-deny
	scripts/install-cargo-tools deny
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) deny --locked check licenses bans sources

doc: ## Build the documentation, target/doc
	$(CARGO) doc --workspace --no-deps --locked

install: build ## Install under PREFIX (/usr/local), with links for Lemur's command names
	install -D -m 0755 $(SIFAKA) $(DESTDIR)$(PREFIX)/bin/sifaka
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/libexec/lhsmd
	for name in $(LINKS_BIN); do ln -sf sifaka $(DESTDIR)$(PREFIX)/bin/$$name; done
	for name in $(LINKS_SBIN); do ln -sf ../bin/sifaka $(DESTDIR)$(PREFIX)/sbin/$$name; done
	for name in $(LINKS_LIBEXEC); do ln -sf ../../bin/sifaka $(DESTDIR)$(PREFIX)/libexec/lhsmd/$$name; done

clean: ## Remove what was built
	$(CARGO) clean
