# Staging: one stage, nothing to compile, with the development tools. It runs the same way as production's image.
# The base is python:3.13-slim-trixie or any Debian 13 with python3 and python3-venv.
ARG BASE_IMAGE=python:3.13-slim-trixie
FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 app \
    && useradd --uid 10001 --gid app --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin app \
    && install -d -o app -g app -m 0750 /data
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DJANGO_SETTINGS_MODULE=dblood.settings.staging \
    DATABASE_URL=sqlite:////data/db.sqlite3 \
    MEDIA_ROOT=/data/media \
    STATIC_ROOT=/app/static
WORKDIR /app
COPY requirements.txt requirements-dev.txt /build/
RUN pip install --no-cache-dir -r /build/requirements-dev.txt
COPY . .
RUN python manage.py collectstatic --noinput --verbosity 0 \
    && python -m compileall -q --invalidation-mode unchecked-hash . \
    && chmod -R a+rX .
USER 10001:10001
EXPOSE 8000
CMD ["python", "-m", "gunicorn", "dblood.wsgi"]

# Last, because it differs in every version: nothing above is built again for it.
ARG VERSION=development
LABEL org.opencontainers.image.title=dblood org.opencontainers.image.version=${VERSION}
ENV APP_VERSION=${VERSION}
