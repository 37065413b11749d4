"""What DVC knows of a project: hashes, the state of stages, work trees for runs. The only package that imports dvc."""

from meddiff.services.versioning.lock import (
    entry_hashes,
    git_commit,
    lock,
    lock_entry,
    lock_text,
    locked,
    out_hashes,
    restore_outs,
    upstream,
)
from meddiff.services.versioning.trees import ERROR_MARK, Reproduced, StageCrash, diff_params, reproduce, work_tree

__all__ = ["ERROR_MARK", "Reproduced", "StageCrash", "diff_params", "entry_hashes", "git_commit", "lock", "lock_entry",
           "lock_text", "locked", "out_hashes", "reproduce", "restore_outs", "upstream", "work_tree"]
