# The dispatcher's image: "The image" in deploy/README.md has the commands. BASE has no default: it names a Python image of your choice
# by its digest, because a tag names another image after each update: --build-arg BASE=python:3.13-slim-trixie@sha256:…
ARG BASE

FROM ${BASE} AS build
ARG BASE
RUN case "${BASE}" in *@sha256:*) ;; *) echo "BASE is not an image with its digest (name@sha256:…): see The image in deploy/README.md" >&2; exit 1 ;; esac
WORKDIR /build
# The dependencies come first: this layer changes only with the lock files.
COPY requirements.txt requirements-build.txt ./
RUN python3 -m venv tools \
    && tools/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --requirement requirements-build.txt \
    && python3 -m venv --without-pip /opt/dispatcher \
    && tools/bin/pip --python /opt/dispatcher/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
        --report packages.json --requirement requirements.txt
COPY pyproject.toml README.md LICENSE deploy/sbom.py ./
COPY dispatcher dispatcher
COPY migrations migrations
RUN tools/bin/hatchling build --target wheel \
    && tools/bin/pip --python /opt/dispatcher/bin/python install --no-cache-dir --no-index --no-deps dist/*.whl \
    && /opt/dispatcher/bin/python sbom.py --image --report packages.json > /opt/dispatcher/sbom.json \
    && mkdir data

FROM ${BASE}
ARG BASE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Vercel outbox dispatcher" \
      org.opencontainers.image.description="Delivers Vercel Marketplace events from a transactional outbox" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
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
