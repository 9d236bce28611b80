# The service: tfew serve, as a user without rights.
#   docker build --tag tfew .                              torch without CUDA
#   docker build --tag tfew --build-arg TORCH=cuda .       with CUDA, 4 GB more
#   docker run -p 8000:8000 -v ADAPTERS:/adapters -v TOKENS:/run/tokens:ro tfew allowed_hosts=[labels.example.org]
# It is linted (make dockerfile) and has not been built: where this project is made there is no Docker.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
ARG TORCH=cpu
WORKDIR /source
COPY . .
RUN python -m venv /venv \
 && torch="$(grep '^torch==' requirements.txt)" \
 && if [ "$TORCH" = cpu ]; then \
      /venv/bin/pip install --no-cache-dir "$torch" --extra-index-url https://download.pytorch.org/whl/cpu; \
    fi \
 && /venv/bin/pip install --no-cache-dir --constraint requirements.txt ".[serve]"

FROM python:${PYTHON}-slim
COPY --from=build /venv /venv
RUN useradd --create-home --uid 1000 tfew && install --directory --owner tfew /adapters
USER 1000:1000
WORKDIR /home/tfew
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_DISABLE_TELEMETRY=1
EXPOSE 8000
# ADAPTERS holds tasks.json and the run folders that it names
VOLUME /adapters
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["tfew", "serve", "adapters=/adapters/tasks.json", "host=0.0.0.0", "token=/run/tokens"]
