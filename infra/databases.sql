-- One database and one owner for each service. Run again, it changes nothing but the passwords, which come from the environment.
\getenv prefect PREFECT_DB_PASSWORD
\getenv mlflow MLFLOW_DB_PASSWORD
\getenv optuna OPTUNA_DB_PASSWORD
\getenv meddiff MEDDIFF_DB_PASSWORD

SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['prefect', 'mlflow', 'optuna', 'meddiff']) AS name
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE prefect PASSWORD :'prefect';
ALTER ROLE mlflow PASSWORD :'mlflow';
ALTER ROLE optuna PASSWORD :'optuna';
ALTER ROLE meddiff PASSWORD :'meddiff';

SELECT format('CREATE DATABASE %I OWNER %I', name, name) FROM unnest(ARRAY['prefect', 'mlflow', 'optuna', 'meddiff']) AS name
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
REVOKE ALL ON DATABASE prefect, mlflow, optuna, meddiff FROM PUBLIC;
