"""How a project grows with its synthetic pairs: time, memory and disk of the stages, of DVC and of the catalogue.

    python benchmarks/growth.py PROJECT N ...            # a clone whose chain has run; its params.yaml and outputs change
    python benchmarks/growth.py PROJECT N ... --files    # also what DVC takes for the same pictures as two files a pair
    python benchmarks/growth.py PROJECT N ... --catalogue URL    # rows alone, N times those of a pair, in the database of this URL

Pairs are phantoms, drawn and not painted: `generate` finds their batches finished, as those of a worker that died after them, and
does all else. Seconds are of the wall and of the processor, of a stage's process and those below it; memory is the largest
process's peak.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from meddiff.cases import Case
from meddiff.datasets.demo import make_phantoms
from meddiff.environment import use_machine
from meddiff.layout import Layout
from meddiff.outputs.rows import SampleRow
from meddiff.outputs.samples import list_batches, read_samples, sample_image, sample_mask, write_batch
from meddiff.outputs.tables import BACKGROUNDS, DECISIONS, SAMPLES
from meddiff.painting.synthesizer import model_hash
from meddiff.params import Params
from meddiff.params.file import edit_params, load_params
from meddiff.stages.resume import work_folder
