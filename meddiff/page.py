"""HTML pages that hold their pictures and need no network: style and building blocks."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

STYLE = """
:root{--ink:#1f2933;--soft:#52606d;--line:#e4e7eb;--accent:#0b7285;--warm:#b45309;--page:#f5f7fa}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink)}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1080px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:28px;line-height:1.25;margin:0 0 4px}h2{font-size:19px;margin:0 0 12px}p{margin:0 0 12px}
.kicker{color:var(--soft);margin:0 0 24px}
section{background:#fff;border:1px solid var(--line);border-radius:12px;padding:24px 28px;margin:0 0 20px}
.verdict{border-left:8px solid var(--soft)}
.verdict.better{border-left-color:var(--accent)}.verdict.worse{border-left-color:var(--warm)}
.verdict h2{font-size:24px;margin-bottom:6px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px;margin-top:18px}
.card{background:var(--page);border-radius:10px;padding:12px 16px}.card b{display:block;font-size:26px;line-height:1.3}
.card span{color:var(--soft);font-size:14px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:8px 12px 8px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;font-size:14px}tr:last-child td{border-bottom:0}
td:last-child{white-space:nowrap}
td small{display:block;color:var(--soft);font-size:13px;white-space:nowrap}
figure{margin:18px 0 0}figure img{max-width:100%;height:auto;display:block}
figcaption,.note{color:var(--soft);font-size:14px;margin-top:8px}
ul{margin:0;padding-left:20px}li{margin:0 0 6px}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:20px}.two section{margin:0}.two{margin-bottom:20px}
i.truth,i.prediction{display:inline-block;width:18px;border-top:3px solid #35d07f;vertical-align:middle;margin:0 4px 0 8px}
i.prediction{border-color:#ff4d4d}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


@dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Attributes:
        name: file stem, such as `gain`; the page puts each into its section by it.
        png: the encoded file.
        caption: one sentence under it.
    """

    name: str
    png: bytes
    caption: str


def document(title: str, body: str) -> str:
    """A complete HTML document without references to other files or hosts; `title` is escaped, `body` is not."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>
{body}
</main></body></html>
"""


def points(value: float) -> str:
    """A difference of Dice, 0 to 1, as signed points."""
    return signed(value * 100, 1)


def signed(value: float, digits: int) -> str:
    """A number with its sign, the minus as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def counted(n: int, thing: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; heads are escaped, cells are HTML."""
    top = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def listed(lines: Sequence[str]) -> str:
    """A list of escaped lines."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def figure(picture: Picture, key: str = "") -> str:
    """A picture with its escaped caption and a key, which is HTML."""
    data, caption = base64.b64encode(picture.png).decode(), html.escape(picture.caption)
    return f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}{key}</figcaption></figure>'


def section(title: str, body: str) -> str:
    """A titled block of the page; nothing without a body."""
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""
