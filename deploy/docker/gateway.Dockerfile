# The gateway, and the console (command: python -m services.console), without torch: docker build -f deploy/docker/gateway.Dockerfile -t stablerep-gateway:local .
#
# BASE is any image with python3 (3.11 or newer) and its venv module. pip is set up by PIP_INDEX_URL and
# PIP_CERT, or by what the base image carries (/etc/pip.conf, certificates).
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE} AS dependencies
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_CERT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/stablerep
# The project without its code: this layer is built again only when a dependency changes.
COPY pyproject.toml requirements.lock LICENSE NOTICE ./
RUN touch README.md && /opt/pip/bin/pip --python /opt/stablerep/bin/python install -c requirements.lock '.[serve,kubernetes,console]' \
    && /opt/pip/bin/pip --python /opt/stablerep/bin/python uninstall --yes stablerep

FROM dependencies AS code
COPY stablerep stablerep
COPY services services
RUN /opt/pip/bin/pip install --no-deps --target /opt/code .

FROM ${BASE}
LABEL org.opencontainers.image.title="stablerep gateway" \
      org.opencontainers.image.description="gRPC front door of StableRep's generation service" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/stablerep/bin:/opt/code/bin:$PATH \
    PYTHONPATH=/opt/code \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    HOME=/tmp
COPY --from=dependencies /opt/stablerep /opt/stablerep
COPY --from=code /opt/code /opt/code
WORKDIR /tmp
USER 10001:10001
EXPOSE 50051 9100
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=6 CMD ["python", "-m", "services.health", "127.0.0.1:9100"]
CMD ["python", "-m", "services.gateway"]
