"""The catalogue of batches, samples, decisions, promotions and actions in SQLite or PostgreSQL; the only room that imports
sqlalchemy.

All but the promotions and the actions (the audit log) is derived: `rebuild` reads it from the files again at any time. Several
projects may share a database; each row carries its project (`project_name`). Writers may work in parallel: a rebuild first writes
its project's row in `meddiff_projects`, which makes other rebuilds of that project wait until it has committed.
"""

from meddiff.services.catalog.audit import ACTIONS, PERSON_VARIABLE, Action, list_actions, person_of, record_action
from meddiff.services.catalog.database import URL_VARIABLE, check, project_name
from meddiff.services.catalog.queries import REBUILD, STATUSES, find, outdated, rebuild, record_promotion, show
from meddiff.services.catalog.records import ActionRecord, CatalogCounts, PromotionRecord, SampleRecord

__all__ = ["ACTIONS", "PERSON_VARIABLE", "REBUILD", "STATUSES", "URL_VARIABLE", "Action", "ActionRecord", "CatalogCounts",
           "PromotionRecord", "SampleRecord", "check", "find", "list_actions", "outdated", "person_of", "project_name",
           "rebuild", "record_action", "record_promotion", "show"]
