# A relay in a container. tests/dockerfile.sh runs these very steps in a plain Debian root.
#
#   docker build -t turnway .
#   docker run --network host --ulimit nofile=1048576 --stop-timeout 90 \
#     --mount type=bind,src=/etc/turnway,dst=/etc/turnway,readonly \
#     --mount type=volume,src=turnway,dst=/var/lib/turnway turnway
#
# The host's network is the right one for a relay: publishing 16384 ports through a proxy or NAT
# costs more than relaying, and hides the clients' addresses. /etc/turnway/turnway.toml must be
# readable by user 900 of the container and have `[metrics] listen = "127.0.0.1:9641"`, which the
# health check asks; the stop timeout must be longer than `drain_timeout`.
#
# The volume keeps the database of users and used volume, `[auth] database =
# "sqlite:/var/lib/turnway/turnway.db"`: without one it ends with the container. A directory of the
# host in its place must belong to user 900. The admin API's socket can be in /run/turnway,
# `[admin] listen = "unix:/run/turnway/admin.sock"`, for `docker exec <container> turnway status -c
# /etc/turnway/turnway.toml`.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin turnway

FROM debian:bookworm-slim
RUN groupadd --system --gid 900 turnway \
 && useradd --system --uid 900 --gid turnway --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin turnway \
 && install -d -o turnway -g turnway -m 0750 /var/lib/turnway /run/turnway
COPY --from=build /src/target/release/turnway /usr/bin/turnway
USER turnway
EXPOSE 3478/udp 3478/tcp
# Without a configuration the relay refuses to start and says so: it never runs open.
ENTRYPOINT ["/usr/bin/turnway"]
CMD ["serve", "-c", "/etc/turnway/turnway.toml"]
# The metrics listener answers /livez; bash reads one line of it, so no HTTP client is installed.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
  CMD bash -c 'exec 3<>/dev/tcp/127.0.0.1/9641 \
    && printf "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" >&3 \
    && read -r -t 4 status <&3 && [[ $status == "HTTP/1.1 200"* ]]'
