# toile serve in a container:
#
#     docker build -t toile --build-arg TORCH_INDEX=... .     for CPUs: the package index that PyTorch's page names for them
#     docker build -t toile:cuda .                            for NVIDIA GPUs, which is what PyPI has for x86-64
#     docker run -p 7860:7860 -e TOILE_TOKEN -v toile-models:/models -v toile-pictures:/pictures toile
#
# docs/serving.md has more.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=
ARG EXTRAS=studio
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /packages
# What toile needs is a layer of its own, which stays when only toile changes.
COPY pyproject.toml constraints.txt deploy/requirements.py ./
RUN python requirements.py ${EXTRAS} > requirements.txt \
    && PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" /packages/bin/pip install -c constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY src src
RUN /packages/bin/pip install --no-deps --target /toile .

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --create-home --shell /usr/sbin/nologin toile \
    && install -d -o toile -g toile /models /pictures
COPY --from=build /packages /packages
COPY --from=build /toile /toile
ENV PATH=/toile/bin:/packages/bin:$PATH \
    PYTHONPATH=/toile \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    TOILE_MODELS=/models/fetched \
    TOILE_LORAS=/models/loras \
    TOILE_EMBEDDINGS=/models/embeddings
USER toile
WORKDIR /pictures
VOLUME ["/models", "/pictures"]
EXPOSE 7860
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
ENTRYPOINT ["toile"]
CMD ["serve", "--host", "0.0.0.0", "--port", "7860", "--out", "/pictures"]
