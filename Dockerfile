# Another image, or this one pinned by its digest: --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv /opt/flagsvc
COPY locks/run.txt locks/run.txt
RUN /opt/flagsvc/bin/pip install --no-cache-dir --require-hashes -r locks/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY flagsvc flagsvc
RUN /opt/flagsvc/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/flagsvc/bin/python -m compileall -q /opt/flagsvc/lib

FROM ${PYTHON_IMAGE}
ENV PATH=/opt/flagsvc/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FLAGSVC_STORE_URL=sqlite:////data/flagsvc.db \
    FLAGSVC_HOST=0.0.0.0
# Other containers connect, so FLAGSVC_AUTH has to be set: docker run -e FLAGSVC_AUTH=off ...
COPY --from=build /opt/flagsvc /opt/flagsvc
# The embedded store needs a place that the user may write; with MongoDB nothing is written and the root may be read-only.
# /tokens is for the first token, where a one-shot container makes it (docker-compose.prod.yml).
RUN mkdir /data /tokens && chown 65532:65532 /data /tokens
VOLUME /data
USER 65532:65532
WORKDIR /data
EXPOSE 8013 8014 8015 8016
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["flagsvc", "health", "--timeout", "2"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["flagsvc"]
CMD ["serve"]
