# One image for every process of jobmesh: mesh master, mesh worker, mesh jobs. Your app's code is
# not in it: mount it at /app, or build an image FROM this one that copies it there.
ARG PYTHON_IMAGE=python:3.13-slim
# Where what has no wheel must be compiled, or pip has to be told where packages are: another base
# for this stage, of which nothing but /opt/mesh is kept.
ARG BUILD_IMAGE=${PYTHON_IMAGE}

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mesh mesh
COPY agents agents
COPY master master
COPY workers workers
RUN python -m venv --without-pip /opt/mesh \
    && python -m pip --python /opt/mesh/bin/python install --no-cache-dir \
    '.[api,crypto,http,otel,prometheus]'

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app mesh
COPY --from=build /opt/mesh /opt/mesh
# PIP_PYTHON: the base's pip installs beside jobmesh, in an image FROM this one.
ENV PATH=/opt/mesh/bin:$PATH PIP_PYTHON=/opt/mesh/bin/python \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
# By number: Kubernetes believes no name not to be root's (runAsNonRoot).
USER 10001:10001
# The exec form: signals reach mesh itself, so that a worker drains when its container stops.
ENTRYPOINT ["mesh"]
CMD ["--help"]
