# Short names for what CONTRIBUTING.md spells out. Nothing is decided here: every target is one or two plain commands.

.PHONY: run test check load

# A daemon to try: everything it writes is in target/first-try, it listens on 127.0.0.1:5035.
run:
	cargo run --bin cpd -- --data target/first-try

test:
	cargo test

# What a change must pass beside the tests.
check:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	mandoc -T lint -W warning man/*.[1-8]
	cargo deny check bans licenses sources

# Throughput and memory of a whole daemon under many connections.
load:
	cargo bench --bench load
