# Keep in step with `rust-version` in Cargo.toml.
ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-slim-bookworm AS builder
# librdkafka, jemalloc and OpenSSL are compiled from their sources, with the crates that bring them: that takes a C and C++ compiler,
# make, and the whole of Perl (OpenSSL's Configure).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ gcc make perl pkg-config zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# TLS and SCRAM towards the broker, with an OpenSSL of its own: the image needs none.
ENV BUILD="cargo build --release --locked --features tls,rdkafka/ssl-vendored"

# The dependencies, in a layer of their own: it is built anew only when they change. What was built of the empty
# crate is removed, or cargo might take it for the real one, whose files can be older.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
COPY crates crates
COPY migrations migrations
RUN mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && $BUILD \
    && cargo clean --release --package data-patch \
    && rm -r src

# config.toml, the migrations and the page are compiled in.
COPY . .
RUN $BUILD


FROM debian:bookworm-slim
# zlib1g: librdkafka's gzip. ca-certificates: a broker or a PostgreSQL with TLS.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates zlib1g \
    && rm -rf /var/lib/apt/lists/*
# A fixed uid, so that files on a volume keep their owner from one image to the next.
RUN groupadd --gid 10001 data-patch \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin data-patch \
    && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/data-patch
COPY --from=builder /build/target/release/data-patch /usr/local/bin/data-patch

# An OpenSSL that is linked in doesn't know where Debian has its certificates.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    DATA_PATCH_QUEUE_URL=sqlite:///var/lib/data-patch/queue.db

USER 10001:10001
WORKDIR /var/lib/data-patch
# The queue: tasks, their logs, and what is still to be published. It must outlive the container.
VOLUME /var/lib/data-patch
EXPOSE 18010
# Alive, not ready: while the broker or the source is unavailable the service waits, and a restart would not bring it back.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["data-patch", "health"]
# In exec form the binary is process 1 and gets SIGTERM itself; it starts no processes, so it needs no init.
ENTRYPOINT ["data-patch"]
CMD ["serve"]
