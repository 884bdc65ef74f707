#!/bin/sh
# Run once by the postgres image, when its data folder is empty: a database for each server.
set -eu
for name in prefect mlflow; do
    psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --command "CREATE DATABASE $name"
done
