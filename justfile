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

# Check a configuration file.
check CONFIG="conf/elida.yaml":
    cargo run --quiet -- check --config {{CONFIG}}

# Everything that must pass: format, lints, all tests with the real binary and real clients.
test: lint
    cargo nextest run

# The tests with HOME and every folder read-only, except the build folder and temporary folders of their own.
test-isolated *ARGS:
    cargo nextest run --no-run
    .ci/isolated cargo nextest run {{ARGS}}

# One test, or all whose name contains NAME.
test-one NAME:
    cargo nextest run {{NAME}}

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

# Totals of a running gateway.
stats:
    cargo run --quiet -- stats --control {{control}}

# SECONDS of mixed load on loopback; memory, descriptors and legs must not grow.
soak SECONDS="3600":
    ELIDA_SOAK={{SECONDS}} cargo test --release --test gateway -- --exact operations::soak::memory_and_descriptors_stay_where_they_are_under_mixed_load --nocapture

# Real programs against the demo provider; writes docs/clients.md. About 3 minutes on an idle machine.
clients:
    ELIDA_WRITE_CLIENTS=1 cargo nextest run -E 'binary(gateway) & test(/^protocols::clients::(agents|sdks)::/)'
    cargo nextest run -E 'binary(gateway) & test(/^protocols::clients::page::/)'

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

# Build the container image.
image:
    docker build -f docker/Dockerfile -t elida .

# The cost of ELIDA compared with bare Pingora; writes docs/benchmarks.md. About 6 minutes on an idle machine.
bench *ARGS:
    cargo bench --quiet --bench gateway -- --write docs/benchmarks.md {{ARGS}}

# Ten thousand concurrent streams, 100,000 sessions; writes docs/scale.md.
scale *ARGS:
    bash -c 'ulimit -n "$(ulimit -H -n)" && cargo bench --quiet --bench gateway -- --scale --write docs/scale.md {{ARGS}}'

# Micro-benchmarks of protocol and sessions (criterion).
bench-micro *ARGS:
    cargo bench --quiet --bench protocol --bench session -- {{ARGS}}

# Run each fuzz target for SECONDS (needs the nightly toolchain; no sanitizer, because there is no unsafe code).
fuzz SECONDS="60":
    cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
    cd fuzz && for target in $(cargo +nightly fuzz list); do \
        cargo +nightly fuzz run --sanitizer none "$target" -- -max_total_time={{SECONDS}} -timeout=10 || exit 1; \
    done
