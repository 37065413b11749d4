"""The catalogue of executions, images, samples, decisions, promotions, deliveries and actions in SQLite or PostgreSQL; the only
room that imports sqlalchemy.

Stages write it as they finish (`record_stage`), keyed by execution, so that it outlives work trees; `rebuild` reads the project's
files anew. Several projects may share a database; each row carries its project (`project_name`). Writers may work in parallel:
each first writes its project's row in `meddiff_projects`, which makes other writers of that project wait until it has committed.
"""

from meddiff.services.catalog.audit import ACTIONS, PERSON_VARIABLE, Action, list_actions, person_of, record_action
from meddiff.services.catalog.database import URL_VARIABLE, check, project_name, reach_database
from meddiff.services.catalog.models import FILES
from meddiff.services.catalog.queries import REBUILD, STATUSES, find, find_sample, outdated, painted_into, read_history, show
from meddiff.services.catalog.records import (
    ActionRecord,
    CatalogCounts,
    DeliveryRecord,
    ExecutionRecord,
    History,
    MadeRecord,
    PromotionRecord,
    SampleRecord,
)
from meddiff.services.catalog.writing import RECORDED, rebuild, record_delivery, record_promotion, record_stage

__all__ = ["ACTIONS", "FILES", "PERSON_VARIABLE", "REBUILD", "RECORDED", "STATUSES", "URL_VARIABLE", "Action", "ActionRecord",
           "CatalogCounts", "DeliveryRecord", "ExecutionRecord", "History", "MadeRecord", "PromotionRecord", "SampleRecord",
           "check", "find", "find_sample", "list_actions", "outdated", "painted_into", "person_of", "project_name",
           "reach_database", "read_history", "rebuild", "record_action", "record_delivery", "record_promotion",
           "record_stage", "show"]
