# A generator worker: docker build -f deploy/docker/generator.Dockerfile -t stablerep-generator:local .
#
# BASE is any image with python3 (3.11 or newer) and its venv module. pip is set up by PIP_INDEX_URL and
# PIP_CERT, or by what the base image carries (/etc/pip.conf, certificates). TORCH_INDEX_URL names another
# index for torch alone, such as the one with CPU builds: 1 GB instead of 6. The CUDA libraries come with torch.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE} AS torch
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_CERT
ARG TORCH_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/stablerep
COPY requirements.lock ./
RUN /opt/pip/bin/pip --python /opt/stablerep/bin/python install -c requirements.lock \
    ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch torchvision

FROM torch AS dependencies
# The project without its code: this layer is built again only when a dependency changes. What is added to
# torch's files is kept apart, so that the images of generator and trainer share the layer with torch.
COPY pyproject.toml LICENSE NOTICE ./
RUN touch README.md && cd /opt/stablerep && find . -type f -o -type l | LC_ALL=C sort > /build/before \
    && cd /build && /opt/pip/bin/pip --python /opt/stablerep/bin/python install -c requirements.lock '.[generate]' \
    && /opt/pip/bin/pip --python /opt/stablerep/bin/python uninstall --yes stablerep \
    && cd /opt/stablerep && find . -type f -o -type l | LC_ALL=C sort | LC_ALL=C comm -13 /build/before - > /build/added \
    && mkdir /opt/added && tar -c -T /build/added | tar -x -C /opt/added

FROM dependencies AS code
COPY stablerep stablerep
COPY services services
RUN /opt/pip/bin/pip install --no-deps --target /opt/code .

FROM ${BASE}
COPY --from=torch /opt/stablerep /opt/stablerep
# What torch builds kernels with on a GPU, beside its CUDA build alone (triton comes with it); COMPILER= leaves it out.
ARG COMPILER="gcc g++ libc6-dev"
RUN if [ -n "$COMPILER" ] && [ -d /opt/stablerep/lib/python3*/site-packages/triton ] && command -v apt-get; then \
        apt-get update && apt-get install -y --no-install-recommends $COMPILER && apt-get clean && rm -rf /var/lib/apt/lists/*; fi
LABEL org.opencontainers.image.title="stablerep generator" \
      org.opencontainers.image.description="Worker of StableRep's generation service: captions to groups of images" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/stablerep/bin:/opt/code/bin:$PATH \
    PYTHONPATH=/opt/code \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    HOME=/tmp \
    HF_HOME=/models \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=dependencies /opt/added /opt/stablerep
COPY --from=code /opt/code /opt/code
# Downloaded models are kept in /models: mount a volume that user 10001 may write. Group 0 may, too: OpenShift
# runs containers as any user of that group.
RUN mkdir /models && chown 10001:0 /models && chmod 775 /models
WORKDIR /tmp
USER 10001:10001
VOLUME /models
EXPOSE 50052 9100
HEALTHCHECK --interval=5s --timeout=5s --start-period=300s --retries=6 CMD ["python", "-m", "services.health", "127.0.0.1:9100"]
CMD ["python", "-m", "services.generator"]
