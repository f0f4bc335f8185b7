# The commands of this project. `just` without arguments lists them.

control := env("ELIDA_CONTROL", "http://127.0.0.1:9090")

_list:
    @just --list --unsorted

# Build the release binary and put it in bin/elida.
build:
    cargo build --release
    mkdir -p bin && cp target/release/elida bin/elida

# Start ELIDA with its bundled demo provider: no key, no configuration. The dev profile, which the tests use too.
demo *ARGS:
    cargo run --quiet -- demo {{ARGS}}

# Two instances that act as one, a Redis and a demo provider, without containers (needs redis-server).
fleet:
    cargo build --quiet --bin elida
    docker/fleet/run.sh target/debug/elida

# Start ELIDA with a configuration file.
run CONFIG="conf/elida.yaml":
    cargo run --release --quiet -- run --config {{CONFIG}}

# Start ELIDA with a configuration file from a debug build, with debug messages. SIGHUP reloads the file.
dev CONFIG="conf/elida.yaml":
    cargo run --quiet -- run --config {{CONFIG}} --log-level debug

# Check a configuration file.
check CONFIG="conf/elida.yaml":
    cargo run --quiet -- check --config {{CONFIG}}

# Everything that must pass: format, lints, all tests with the real binary and real clients, and what a request may cost.
test: lint && budget
    cargo nextest run

# The tests with HOME and every folder read-only, except the build folder and temporary folders of their own.
test-isolated *ARGS:
    cargo nextest run --no-run
    .ci/isolated cargo nextest run {{ARGS}}

# One test, or all whose name contains NAME.
test-one NAME:
    cargo nextest run {{NAME}}

# Unit tests only.
test-unit:
    cargo nextest run --lib

# Tests of the binary only, with real clients.
test-integration:
    cargo nextest run --test '*'

# One test or several, with their output, one after another.
test-trace NAME:
    cargo nextest run --no-capture {{NAME}}

# The tests, or those whose name contains NAME, again after every change of a file (needs cargo-watch).
test-watch *NAME:
    cargo watch --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-watch
    cargo watch --exec "nextest run {{NAME}}"

# Tests with line coverage (needs cargo-llvm-cov).
test-coverage:
    cargo llvm-cov nextest --html

# Basic requests through a running gateway, to Ollama or the demo provider.
test-ollama URL="http://localhost:8080":
    curl --fail-with-body -sS {{URL}}/api/tags
    curl --fail-with-body -sS {{URL}}/api/generate -d '{"model":"llama3.2","prompt":"Why is the sky blue?","stream":false}'

# A stream through a running gateway.
test-stream URL="http://localhost:8080":
    curl --fail-with-body -sSN {{URL}}/api/chat -d '{"model":"llama3.2","messages":[{"role":"user","content":"count to ten, one number at a time"}]}'

# Sessions of a running gateway.
sessions:
    cargo run --quiet -- sessions --control {{control}}

# Whether a running gateway is ready; exits with 1 if it is not.
status:
    cargo run --quiet -- healthcheck --control {{control}}

# Totals of a running gateway.
stats:
    cargo run --quiet -- stats --control {{control}}

# SECONDS of mixed load on loopback; memory, descriptors and legs must not grow.
soak SECONDS="3600":
    ELIDA_SOAK={{SECONDS}} cargo test --release --test gateway -- --exact operations::soak::memory_and_descriptors_stay_where_they_are_under_mixed_load --nocapture

# Real programs against the demo provider; writes docs/clients.md. About 3 minutes on an idle machine.
clients:
    ELIDA_WRITE_CLIENTS=1 cargo nextest run -E 'binary(gateway) & test(/^protocols::clients::(agents|blocks|refusals|sdks)::/)'
    cargo nextest run -E 'binary(gateway) & test(/^protocols::clients::page::/)'

# Whether the vendored files of the dashboard are those of their npm packages (needs npm and Python 3.11).
vendor-check:
    python3 tests/clients/vendor_check.py

# Format the code.
fmt:
    cargo fmt

# Regenerate conf/schema.json, docs/cdr.schema.json and docs/openapi.json after a change of a configuration key, a record field or the control API.
schema:
    cargo run --quiet -- schema > target/schema.json
    mv target/schema.json conf/schema.json
    cargo run --quiet -- schema --of record > target/schema.json
    mv target/schema.json docs/cdr.schema.json
    cargo run --quiet -- schema --of openapi > target/schema.json
    mv target/schema.json docs/openapi.json

# Formatting and lints, warnings are errors.
lint:
    cargo fmt --check
    cargo clippy --quiet --all-targets -- --deny warnings

# Whether everything compiles, with every feature.
type-check:
    cargo check --quiet --all-targets --all-features

# Whether Cargo.lock is complete.
deps-check:
    cargo metadata --locked --format-version 1 > /dev/null

# Known vulnerabilities of dependencies (asks the RustSec database).
audit:
    cargo audit --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-audit
    cargo audit

# Everything about the code that needs no test run.
quality: lint type-check deps-check

# What CI runs on a clean clone.
ci:
    .ci/run

# Install what building, running and testing need.
setup:
    sh .ci/setup --tests

# Install ELIDA for this user.
install:
    cargo install --path . --locked

# Remove what was built.
clean:
    cargo clean
    rm -rf bin

# Build the container image.
image:
    docker build -f docker/Dockerfile -t elida .

# Start the fleet of docker/compose.yaml: two instances, Redis, a collector, Prometheus, Grafana and Jaeger.
up:
    docker compose -f docker/compose.yaml up --build --detach

# Follow the logs of that fleet.
logs *SERVICE:
    docker compose -f docker/compose.yaml logs --follow {{SERVICE}}

# Stop that fleet.
down:
    docker compose -f docker/compose.yaml down

# The cost of ELIDA compared with bare Pingora; writes docs/benchmarks.md. About 6 minutes on an idle machine.
bench *ARGS:
    cargo bench --quiet --bench gateway -- --write docs/benchmarks.md {{ARGS}}

# Count instructions, allocations, cache misses and system calls of a request, and compare them with benches/budget.toml (needs valgrind and strace).
budget *ARGS:
    cargo bench --quiet --bench gateway -- --budget {{ARGS}}

# Ten thousand concurrent streams, 100,000 sessions; writes docs/scale.md.
scale *ARGS:
    bash -c 'ulimit -n "$(ulimit -H -n)" && cargo bench --quiet --bench gateway -- --scale --write docs/scale.md {{ARGS}}'

# The figures that users ask of a gateway, in one run with 1,000 streams and a full cache; writes docs/load.md, and fails if one is missed.
bench-load *ARGS:
    cargo bench --quiet --bench gateway -- --figures --write docs/load.md {{ARGS}}

# Micro-benchmarks of protocol and sessions (criterion).
bench-micro *ARGS:
    cargo bench --quiet --bench protocol --bench session -- {{ARGS}}

# Run each fuzz target for SECONDS (needs the nightly toolchain; no sanitizer, because there is no unsafe code).
fuzz SECONDS="60":
    cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
    cd fuzz && for target in $(cargo +nightly fuzz list); do \
        cargo +nightly fuzz run --sanitizer none "$target" -- -max_total_time={{SECONDS}} -timeout=10 || exit 1; \
    done
