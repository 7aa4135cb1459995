# SPDX-License-Identifier: MIT
# l7mp-proxy, l7mpctl and l7mp-operator for containers: docs/install.md says how to run it.
FROM debian:12-slim AS build
WORKDIR /src
# First what changes rarely.
COPY scripts/setup.sh scripts/
RUN scripts/setup.sh build
COPY . .
RUN make -j"$(nproc)" WERROR=0 all && make WERROR=0 install PREFIX=/usr DESTDIR=/out && strip /out/usr/sbin/l7mp-proxy /out/usr/bin/l7mpctl /out/usr/bin/l7mp-operator

FROM debian:12-slim
RUN apt-get -q update && \
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
        ca-certificates libbpf1 libc-ares2 libcap2 libcivetweb1 libcjson1 libcurl4 libmnl0 libpcre2-8-0 libssl3 \
        libuv1 libwebsockets17 libwebsockets-evlib-uv libxdp1 libyaml-0-2 nftables && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=build /out/usr/sbin/l7mp-proxy /usr/sbin/
COPY --from=build /out/usr/bin/l7mpctl /out/usr/bin/l7mp-operator /usr/bin/
COPY --chmod=755 scripts/container/start scripts/container/healthy /usr/lib/l7mp/
COPY --chmod=644 config/l7mp-packaged.yaml /etc/l7mp/l7mp.yaml
# A second copy of the program gets what --cap-add allows, as Docker gives that to root only.
RUN groupadd --system --gid 900 l7mp && useradd --system --uid 900 --gid l7mp --home-dir /nonexistent --no-create-home l7mp && \
    install -d -o l7mp -g l7mp /run/l7mp /var/log/l7mp && \
    sed -i 's|/etc/l7mp/token|/run/l7mp/token|' /etc/l7mp/l7mp.yaml && \
    ! ldd /usr/sbin/l7mp-proxy /usr/bin/l7mpctl /usr/bin/l7mp-operator | grep 'not found' && \
    cp /usr/sbin/l7mp-proxy /usr/lib/l7mp/ && \
    apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends libcap2-bin && \
    setcap cap_bpf,cap_net_admin,cap_net_raw,cap_perfmon,cap_net_bind_service+ep /usr/lib/l7mp/l7mp-proxy && \
    apt-get -q purge -y --auto-remove libcap2-bin && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log

ENV L7MP_TOKEN_FILE=/run/l7mp/token
# By number, so that a platform sees that it is not root.
USER 900:900
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/lib/l7mp/healthy"]
ENTRYPOINT ["/usr/lib/l7mp/start"]
CMD ["-c", "/etc/l7mp/l7mp.yaml"]
