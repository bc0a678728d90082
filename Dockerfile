# Two stages: build with headers, run without. docker build -t sirocco .
# docker run --rm -p 8000:8000 -v /models/m:/model:ro sirocco serve --host 0.0.0.0 --model /model

FROM debian:12-slim AS build
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        build-essential pkg-config libmicrohttpd-dev libjansson-dev libuv1-dev libsentencepiece-dev \
        libpcre2-dev libutf8proc-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make -j"$(nproc)" CUDA=0 all && make CUDA=0 DESTDIR=/out PREFIX=/usr/local install

FROM debian:12-slim
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        libmicrohttpd12 libjansson4 libuv1 libsentencepiece0 libpcre2-8-0 libutf8proc2 curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin sirocco
COPY --from=build /out/usr/local /usr/local
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD curl -fsS http://127.0.0.1:8000/health || exit 1
ENTRYPOINT ["sirocco"]
CMD ["serve", "--host", "0.0.0.0"]
