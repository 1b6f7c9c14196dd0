# The dispatcher's image: `docker build -t vercel-outbox-dispatcher .` or `make image-test`.
# For production, pin the base by its digest: --build-arg BASE=python:3.13-slim-trixie@sha256:…
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BASE} AS build
WORKDIR /build
# The dependencies come first: this layer changes only with the lock files.
COPY requirements.txt requirements-build.txt ./
RUN python3 -m venv tools \
    && tools/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --requirement requirements-build.txt \
    && python3 -m venv --without-pip /opt/dispatcher \
    && tools/bin/pip --python /opt/dispatcher/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
        --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY dispatcher dispatcher
COPY migrations migrations
RUN tools/bin/hatchling build --target wheel \
    && tools/bin/pip --python /opt/dispatcher/bin/python install --no-cache-dir --no-index --no-deps dist/*.whl \
    && mkdir data

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Vercel outbox dispatcher" \
      org.opencontainers.image.description="Delivers Vercel Marketplace events from a transactional outbox" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/dispatcher /opt/dispatcher
# The embedded SQLite database, if you use it, is stored here: mount a volume. The dispatcher writes nowhere else.
COPY --from=build --chown=65532:65532 /build/data /var/lib/dispatcher
ENV PATH=/opt/dispatcher/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/dispatcher
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s --retries=3 CMD ["dispatcher", "health"]
ENTRYPOINT ["dispatcher"]
CMD ["run"]
