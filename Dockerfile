# llmgen as an image: `docker build -t llmgen .`, then `docker run --rm llmgen run --url …` (docs/deployment.md).

# Any image with Python 3.11 or newer on glibc does; both stages must have the same.
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS build
# Not pinned: the base image's distribution decides, and nothing of it is in the second stage.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY src src
# An environment that the second stage takes over as a whole: no compiler, no sources, no caches in it.
RUN python -m venv /opt/llmgen \
 && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && wheel="$(echo /wheels/llmgen-*.whl)" \
 && /opt/llmgen/bin/pip install --no-cache-dir "${wheel}[yaml,telemetry]"

FROM ${PYTHON}
COPY --from=build /opt/llmgen /opt/llmgen
# A number, so that Kubernetes' runAsNonRoot can see that it is not root. Results belong on a volume.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin llmgen \
 && install --directory --owner=10001 --group=10001 /results
ENV PATH=/opt/llmgen/bin:$PATH PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/tmp/cache
USER 10001
WORKDIR /results
VOLUME /results
ENTRYPOINT ["llmgen"]
CMD ["--help"]
