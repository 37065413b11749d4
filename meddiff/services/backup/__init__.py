"""A project's state, in files of its own: databases, models, results, DVC's cache and what an S3 server keeps."""

from meddiff.services.backup.archive import Contents, make_backup, restore_backup
from meddiff.services.backup.servers import READY, platform_lock
from meddiff.services.backup.team import BUCKETS, DATABASES, TEAM_REMEDY, TeamState, find_program, missing_address, team_state

__all__ = ["BUCKETS", "DATABASES", "READY", "TEAM_REMEDY", "Contents", "TeamState", "find_program", "make_backup",
           "missing_address", "platform_lock", "restore_backup", "team_state"]
