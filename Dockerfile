# All commands in an image without data, run by a user without rights: docs/development.md.
#
#     docker build --tag sslrs .                          torch for CPUs
#     docker build --tag sslrs --build-arg BUILD=cuda .   torch with its own CUDA; needs a driver alone
FROM python:3.13-slim-bookworm AS base
# GDAL, as rasterio's wheel brings it, needs it of the system. Debian keeps no older versions to name.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
ARG BUILD=cpu
WORKDIR /source
COPY pyproject.toml requirements.txt README.md LICENSE ./
COPY tools/install.sh tools/
COPY SSLRemoteSensing SSLRemoteSensing
RUN tools/install.sh /opt/sslrs "$BUILD"

FROM base
COPY --from=build /opt/sslrs /opt/sslrs
RUN useradd --uid 1000 --no-create-home sslrs
USER 1000
WORKDIR /work
# Whoever runs it by --user has no home: caches of matplotlib and torch go there.
ENV PATH=/opt/sslrs/bin:$PATH HOME=/tmp
ENTRYPOINT ["sslrs"]
CMD ["--help"]
