# The tracking server: MLflow with accounts and PostgreSQL's driver, a user without rights.
FROM python:3.11.13-slim-bookworm

RUN pip install --no-cache-dir "mlflow[auth]==3.17.2" "psycopg[binary]==3.3.9" \
    && useradd --create-home --uid 1000 mlflow \
    && mkdir /artifacts && chown mlflow /artifacts

COPY --chmod=755 docker/serve-tracking docker/account /usr/local/bin/
USER mlflow
WORKDIR /home/mlflow
ENV ARTIFACTS=/artifacts
VOLUME /artifacts
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
ENTRYPOINT ["serve-tracking"]
