# Three targets: `cpu` for the complete chain, `cuda` for steps on a GPU, `serving` for the search service.
# Layers that rarely change come first, so that new code is one small layer. Nothing is installed at run time.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_NATIVE_TLS=1 UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/opt/venv
COPY requirements.lock /src/
RUN python -m venv --without-pip /opt/venv \
 && printf '/opt/vitrine\n/opt/vitrine/eval\n' > $(echo /opt/venv/lib/python3*/site-packages)/vitrine.pth \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check -c /src/requirements.lock uv setuptools
WORKDIR /src

# The pinned requirements. Other changes of pyproject.toml leave these files, and the layers made from them, unchanged.
FROM build AS requirements
COPY pyproject.toml ./
COPY eval/pyproject.toml eval/
ARG COMPILE="/opt/build/bin/uv pip compile --quiet --no-header --no-annotate --no-deps --no-emit-package vitrine-judge -c requirements.lock"
RUN $COMPILE pyproject.toml --extra cluster --extra encoders --extra ocr > cpu.txt \
 && $COMPILE pyproject.toml --extra encoders --extra ocr > cuda.txt \
 && grep -E '^(kfp|mlflow|pandas)==' requirements.lock >> cuda.txt \
 && $COMPILE pyproject.toml --extra encoders --extra milvus --extra ocr --extra serving > serving.txt \
 && grep -E '^(boto3|mlflow|pandas|uv)==' requirements.lock >> serving.txt

FROM build AS code
COPY pyproject.toml README.md LICENSE ./
COPY catalog catalog
COPY fusion fusion
COPY eval eval
COPY scoring scoring
COPY registry registry
COPY validation validation
COPY components components
COPY serving serving
COPY plugins plugins
COPY pipelines pipelines
ARG INSTALL="/opt/build/bin/uv pip install --python /opt/build/bin/python --no-build-isolation --no-deps --target"
RUN $INSTALL /opt/vitrine . && $INSTALL /opt/vitrine/eval ./eval

FROM ${BASE_IMAGE} AS runtime
# Mounted repositories belong to another user.
RUN useradd --uid 10001 --no-create-home vitrine && printf '[safe]\n\tdirectory = *\n' > /etc/gitconfig
# Steps and servers load PyTorch before catalog/threads.py runs, and it reads GOMP_SPINCOUNT once.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp DVC_SITE_CACHE_DIR=/tmp/dvc \
    GOMP_SPINCOUNT=1000
LABEL org.opencontainers.image.title="vitrine" org.opencontainers.image.licenses="Apache-2.0"
USER 10001
WORKDIR /tmp

# PyTorch without CUDA comes from PyTorch's own index, which uv knows; TORCH_BACKEND= takes it from the package index.
FROM build AS packages-cpu
ARG TORCH_BACKEND=cpu
COPY --from=requirements /src/cpu.txt ./
RUN /opt/build/bin/uv pip install ${TORCH_BACKEND:+--torch-backend $TORCH_BACKEND} -c requirements.lock -r cpu.txt

FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=code /opt/vitrine /opt/vitrine
ARG COMMIT=unknown
ENV VITRINE_COMMIT=${COMMIT}
LABEL org.opencontainers.image.revision="${COMMIT}"

FROM build AS packages-serving
ARG TORCH_BACKEND=cpu
COPY --from=requirements /src/serving.txt ./
RUN /opt/build/bin/uv pip install ${TORCH_BACKEND:+--torch-backend $TORCH_BACKEND} -c requirements.lock -r serving.txt

FROM runtime AS serving
COPY --from=packages-serving /opt/venv /opt/venv
COPY --from=code /opt/vitrine /opt/vitrine
COPY serving.yaml params.yaml /etc/vitrine/
ARG COMMIT=unknown
ENV VITRINE_COMMIT=${COMMIT}
LABEL org.opencontainers.image.revision="${COMMIT}"
EXPOSE 8080
CMD ["python", "-m", "serving", "--host", "0.0.0.0", "--port", "8080", \
     "--settings", "/etc/vitrine/serving.yaml", "--params", "/etc/vitrine/params.yaml"]

FROM build AS packages-cuda
COPY --from=requirements /src/cuda.txt ./
RUN /opt/build/bin/uv pip install -c requirements.lock -r cuda.txt

FROM runtime AS cuda
COPY --from=packages-cuda /opt/venv /opt/venv
COPY --from=code /opt/vitrine /opt/vitrine
ARG COMMIT=unknown
ENV VITRINE_COMMIT=${COMMIT}
LABEL org.opencontainers.image.revision="${COMMIT}"
