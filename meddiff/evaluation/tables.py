"""The report's tables as files for papers and spreadsheets."""

import pandas as pd

from meddiff.evaluation.page import report_tables
from meddiff.evaluation.summary import Summary
from meddiff.pages import Table


def number_table(summary: Summary) -> pd.DataFrame:
    """Every interval in full: one row a part (`all`, a size or a class), arm and score.

    Columns part, arm, score (a metric; `gain`: Dice over the real arm; `effect`: Dice of the synthetic arm over this one), mean,
    lower, upper, confidence, cases, seeds.
    """
    rows = [("all", arm, score, interval) for arm, scores in summary.arms.items() for score, interval in scores.items()]
    rows += [("all", arm, "gain", interval) for arm, interval in summary.gains.items()]
    rows += [("all", arm, "effect", interval) for arm, interval in summary.effects.items()]
    rows += [("lesion-free", arm, "specificity", found.specificity) for arm, found in summary.detection.items()]
    rows += [(part, arm, "dice", interval) for parts in (summary.by_size, summary.by_class) for part, scores in parts.items()
             for arm, interval in scores.items() if arm != "gain"]
    return pd.DataFrame([{"part": part, "arm": arm, "score": score, **vars(interval)} for part, arm, score, interval in rows])


def latex_tables(summary: Summary, tolerance: float) -> str:
    """The tables of the page in LaTeX (package booktabs), one `tabular` each below a comment with its name."""
    return "\n".join(f"% {name}\n{_latex(table)}" for name, table in report_tables(summary, tolerance).items() if table.rows)


def _latex(table: Table) -> str:
    rows = [[entry if isinstance(entry, str) else f"{entry[0]} ({', '.join(entry[1:])})" if entry[1:] else entry[0]
             for entry in row] for row in table.rows]
    body: str = pd.DataFrame(rows, columns=list(table.heads)).to_latex(index=False, escape=True)
    return body.replace("−", "$-$").replace("–", "--")
