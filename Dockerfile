# One recipe. `cpu` holds the whole chain; `cuda` what featurize and train need beside a GPU.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir uv
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
ENV UV_LINK_MODE=copy UV_NO_CACHE=1

FROM build AS build-cpu
RUN mkdir catalog && /opt/venv/bin/uv pip install --python /opt/venv/bin/python -c requirements.lock '.[chain]'
COPY catalog catalog
COPY fusion fusion
COPY eval eval
COPY components components
COPY pipelines pipelines
RUN /opt/venv/bin/uv pip install --python /opt/venv/bin/python --no-deps --reinstall-package vitrine .

FROM build AS build-cuda
RUN mkdir catalog && /opt/venv/bin/uv pip install --python /opt/venv/bin/python -c requirements.lock . kfp
COPY catalog catalog
COPY fusion fusion
COPY eval eval
COPY components components
COPY pipelines pipelines
RUN /opt/venv/bin/uv pip install --python /opt/venv/bin/python --no-deps --reinstall-package vitrine .

FROM ${BASE_IMAGE} AS runtime
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="vitrine" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${COMMIT}"
ENV PATH=/opt/venv/bin:$PATH VITRINE_COMMIT=${COMMIT} PYTHONUNBUFFERED=1 HOME=/tmp
RUN useradd --uid 10001 --no-create-home vitrine
USER 10001
WORKDIR /tmp

FROM runtime AS cuda
COPY --from=build-cuda /opt/venv /opt/venv

FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
