-- One database and one owner for each service, made when PostgreSQL starts on an empty volume. Passwords come from the environment.
\getenv prefect PREFECT_DB_PASSWORD
\getenv mlflow MLFLOW_DB_PASSWORD
\getenv meddiff MEDDIFF_DB_PASSWORD

CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE ROLE meddiff LOGIN PASSWORD :'meddiff';

CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE meddiff OWNER meddiff;

REVOKE ALL ON DATABASE prefect, mlflow, meddiff FROM PUBLIC;
