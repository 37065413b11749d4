"""Stage `segment`: one segmenter for each arm and seed, trained alike but for what the arm is about."""

from functools import partial
from threading import Lock

import pandas as pd

from meddiff.cluster import share_out
from meddiff.environment import use_machine
from meddiff.finished import forget
from meddiff.layout import Layout, replacing
from meddiff.outputs.rows import DroppedRow
from meddiff.outputs.tables import DROPPED, VALIDATION, loss_points
from meddiff.outputs.trained import gather_segmenters
from meddiff.params import Params
from meddiff.progress import tell
from meddiff.segmentation.ensemble import Recipe
from meddiff.services.tracking import StageRun
from meddiff.stages.arms import Arms, Finished


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Train every arm with every seed into `models/segmenters/ARM/SEED/`, and write tables of them (`outputs.tables`).

    A finished segmenter is kept in `.work/`: a killed run goes on, and a new filter setting doesn't train the real arm again.
    Raises a MeddiffError where prepared cases or backgrounds are missing, or an arm has no pairs (see `segment.empty_arms`).
    """
    params, layout = use_machine(params), Layout(layout.root.resolve())
    settings, arms, recording, made = params.segment, Arms.load(layout, params), Lock(), dict[tuple[str, int], Finished]()
    tracker.dataset(pd.DataFrame({"id": [c.id for c in arms.real], "group": [c.group for c in arms.real]}), "train", "training")
    dropped = arms.pools.dropped
    tell("segment", (f"the arm {arm} is left out: {reason}" for arm, reason in dropped.items()))

    def receive(finished: Finished) -> None:
        arm, seed, folder, row = finished
        with recording:
            made[arm, seed] = finished
            for step, loss in loss_points(folder).items():
                tracker.metrics({f"loss_{arm}_{seed}": loss}, step)
            tracker.metrics({f"val_dice_{arm}_{seed}": dice for dice in row["dice"].dropna()})

    each = [(arm, seed) for arm in settings.arms if arm not in dropped for seed in settings.seeds]
    share_out(each, partial(Arms.load, layout, params), Arms.train, receive, params.compute, arms)
    with replacing(layout.segmenters) as fresh:
        gather_segmenters({unit: made[unit][2] for unit in each}, fresh)
        for arm in dict(each):
            Recipe.of(arm, len(arms.real[0].image), params.prepare, settings).write(fresh / arm)
        table = VALIDATION.write(fresh, pd.concat([made[unit][3] for unit in each], ignore_index=True))
        DROPPED.write(fresh, (DroppedRow(arm, reason) for arm, reason in dropped.items()))
    forget(arms.work, [folder for _, _, folder, _ in made.values()])
    tracker.file(layout.segmenters / VALIDATION.name)
    tracker.headline({f"val_dice_{arm}": float(dice) for arm, dice in table.groupby("arm")["dice"].mean().dropna().items()})
