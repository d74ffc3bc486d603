# The service in a container, as a user without privileges.
#
#   CPU:   docker build -t emollama .
#          docker run --rm -p 127.0.0.1:8000:8000 -e EMOLLAMA_AUTH=open --read-only --tmpfs /tmp:size=4g emollama
#   CUDA:  docker build -t emollama:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 \
#                       --build-arg EXTRAS=[gpu] .
#          docker run --rm --gpus all -p 127.0.0.1:8000:8000 -e EMOLLAMA_AUTH=open -e EMOLLAMA_DEVICE=cuda:0 emollama:cuda
#
# EMOLLAMA_AUTH=open asks nobody for a key, which is for a port published to this machine alone, or to a proxy that asks.
# For everybody else: EMOLLAMA_AUTH=keys and a volume for the keys (docs/security.md).

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
# Wheels of this index carry a local version (2.15.0+cpu), which pip prefers to the same version without one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/emollama
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY emollama emollama
COPY server server
COPY train train
COPY eval eval
RUN /opt/emollama/bin/pip install --extra-index-url "${TORCH_INDEX}" --constraint constraints.txt ".${EXTRAS}"

FROM python:${PYTHON_VERSION}-slim
RUN groupadd --gid 10001 emollama && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin emollama
COPY --from=build /opt/emollama /opt/emollama
# Only /tmp is written to, so that the root file system may be read-only.
ENV PATH=/opt/emollama/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    EMOLLAMA_HOST=0.0.0.0 \
    EMOLLAMA_PORT=8000
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-I", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['EMOLLAMA_PORT'] + '/health', timeout=4)"]
ENTRYPOINT ["emollama"]
CMD ["serve"]
