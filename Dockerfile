# One image for every process of jobmesh: mesh master, mesh worker, mesh jobs. Your app's code is
# not in it: mount it at /app, or build an image FROM this one that copies it there.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mesh mesh
COPY agents agents
COPY master master
COPY workers workers
RUN python -m venv /opt/mesh && /opt/mesh/bin/pip install --no-cache-dir \
    '.[api,crypto,http,otel,prometheus]'

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app mesh
COPY --from=build /opt/mesh /opt/mesh
ENV PATH=/opt/mesh/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER mesh
# The exec form: signals reach mesh itself, so that a worker drains when its container stops.
ENTRYPOINT ["mesh"]
CMD ["--help"]
