# What people type. `make test` runs everything that can run here, and says loudly what could not.

.PHONY: help test test-announce test-embedded test-real test-page lint demo deploy-test services services-down acceptance torture soak fuzz bench bench-hot

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

test: test-announce test-embedded test-real ## all tests: on embedded parts, then on real PostgreSQL, Kafka, OpenSearch and Elasticsearch where they can be had

test-embedded: ## the tests on SQLite and the broker in the process; nothing needs to be installed
	env -u DATA_PATCH_TEST_POSTGRES -u DATA_PATCH_TEST_KAFKA -u DATA_PATCH_TEST_OPENSEARCH -u DATA_PATCH_TEST_ELASTICSEARCH \
	  -u DATA_PATCH_TEST_ELASTIC_ALL scripts/run-tests --lib --bins --test it --test conformance

test-announce:
	@echo "Builds the tests once (5 to 15 minutes the first time, about 3 GB in target/; then seconds), runs them on embedded"
	@echo "parts (2 minutes), starts PostgreSQL, Kafka, OpenSearch and Elasticsearch of this checkout (fetched the first time),"
	@echo "runs them there with the kill matrix (4 minutes), and stops what it started."

test-real: ## the integration tests on real PostgreSQL, Apache Kafka, OpenSearch and Elasticsearch (scripts/services starts them)
	@scripts/test-real

test-page: ## the page in a real browser (chromium, Node.js); screenshots are left in target/page
	@scripts/page-test

lint: ## formatting, clippy, documentation
	cargo fmt --all --check
	scripts/config-docs --check
	scripts/check-links
	cargo clippy --locked --workspace --all-targets --features failpoints -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

demo: ## see it work, with nothing installed
	cargo run --locked --release -- demo

deploy-test: ## what is in deploy/: alert rules, dashboard, systemd, Kubernetes, Helm; the Debian package in a new system (as root)
	cargo build --locked --features failpoints
	deploy/test

services: ## start PostgreSQL, Kafka, OpenSearch and Elasticsearch for tests
	scripts/services up

services-down: ## stop them
	scripts/services down

torture: ## kill matrix, random walk, outages, three Kafka nodes, full disk, hostile clients on real parts; prints a table (minutes)
	scripts/torture

soak: ## patches of all sizes, watchers coming and going; memory, files and queue at the end as at the start (minutes)
	scripts/torture soak

fuzz: ## ten minutes for each fuzz target (needs a nightly toolchain and cargo-fuzz)
	fuzz/run

bench: ## the pipeline against psql | kcat and a Python script, the queue against other queues (an hour; leave the machine alone)
	cargo build --locked --release
	bench/pipeline/run all
	bench/queue/run
	bench/queue/run --growth

bench-hot: ## what is done with each row and message, in nanoseconds
	cargo bench --locked --bench hot

acceptance: ## a million rows on real parts, killed on the way, read back by others; prints figures (minutes)
	cargo build --locked --release
	scripts/acceptance all
