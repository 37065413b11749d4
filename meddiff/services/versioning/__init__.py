"""What DVC knows of a project: hashes, the state of stages, work trees for runs. The only package that imports dvc."""

from meddiff.services.versioning.cache import (
    cache_folder,
    dvc_folders,
    forget_missing,
    lock_hashes,
    referred,
    remote_answers,
    unused_objects,
)
from meddiff.services.versioning.lock import (
    entry_hashes,
    git_commit,
    git_user,
    lock,
    lock_entry,
    lock_text,
    locked,
    out_hashes,
    restore_all,
    restore_outs,
    upstream,
)
from meddiff.services.versioning.settling import dvc_command, settle_dvc
from meddiff.services.versioning.trees import ERROR_MARK, Reproduced, StageCrash, diff_params, reproduce, work_tree

__all__ = ["ERROR_MARK", "Reproduced", "StageCrash", "cache_folder", "diff_params", "dvc_command", "dvc_folders", "entry_hashes",
           "forget_missing", "git_commit", "git_user", "lock", "lock_entry", "lock_hashes", "lock_text", "locked",
           "out_hashes", "referred", "remote_answers", "reproduce", "restore_all", "restore_outs", "settle_dvc",
           "unused_objects", "upstream", "work_tree"]
