"""How the catalogue's tables came to their form: alembic runs the files in `versions/` one after the other."""
