"""Run by alembic alone (see `database`), on the connection whose transaction holds all migrations."""

from alembic import context

from meddiff.services.catalog.models import VERSION_TABLE, Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata, version_table=VERSION_TABLE)
context.run_migrations()
