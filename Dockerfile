# Two stages: build with headers, run without. docker build -t sirocco .
# docker run --rm -p 8000:8000 -v /models/m:/model:ro sirocco serve --host 0.0.0.0 --model /model
#
# With the CUDA backend, from images of Debian or Ubuntu that have CUDA 13 (CUDA_ARCHS: only these
# compute capabilities, 90a for example, in place of all), and run with `docker run --gpus all`:
#
# docker build -t sirocco:cuda --build-arg CUDA=1 \
#     --build-arg BUILD_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#     --build-arg RUN_IMAGE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
ARG BUILD_IMAGE=debian:12-slim
ARG RUN_IMAGE=debian:12-slim

FROM ${BUILD_IMAGE} AS build
ARG CUDA=0
ARG CUDA_ARCHS=
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        build-essential pkg-config libmicrohttpd-dev libjansson-dev libuv1-dev libsentencepiece-dev \
        libpcre2-dev libutf8proc-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make -j"$(nproc)" CUDA=$CUDA ${CUDA_ARCHS:+CUDA_ARCHS="$CUDA_ARCHS"} all \
 && make CUDA=$CUDA ${CUDA_ARCHS:+CUDA_ARCHS="$CUDA_ARCHS"} DESTDIR=/out PREFIX=/usr/local install

FROM ${RUN_IMAGE}
# patterns: libraries' names differ between Debian 12 and Ubuntu 24.04
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        '^libmicrohttpd12(t64)?$' libjansson4 '^libuv1(t64)?$' libsentencepiece0 libpcre2-8-0 \
        '^libutf8proc[0-9]+$' curl \
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
