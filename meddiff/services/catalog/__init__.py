"""The catalogue of batches, samples, decisions and promotions in SQLite or PostgreSQL; the only room that imports sqlalchemy.

All but the promotions is derived: `rebuild` reads it from the files again at any time. Several projects may share a database;
each row carries its project (`project_name`). Writers may work in parallel: a rebuild first writes its project's row in
`meddiff_projects`, which makes other rebuilds of that project wait until it has committed.
"""

from meddiff.services.catalog.database import URL_VARIABLE
from meddiff.services.catalog.queries import REBUILD, STATUSES, find, outdated, project_name, rebuild, record_promotion, show
from meddiff.services.catalog.records import CatalogCounts, PromotionRecord, SampleRecord

__all__ = ["REBUILD", "STATUSES", "URL_VARIABLE", "CatalogCounts", "PromotionRecord", "SampleRecord", "find", "outdated",
           "project_name", "rebuild", "record_promotion", "show"]
