"""Each alert has a summary, a description, a severity, and a section of its own in the operators' documents of both languages."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["docs/operations.md", "docs/operations.zh-CN.md"]

wrong = []
rules = (ROOT / "deploy/prometheus/rules.yml").read_text(encoding="utf-8")
alerts = re.split(r"^      - alert: ", rules, flags=re.MULTILINE)[1:]
names = [alert.split()[0] for alert in alerts]
for name, alert in zip(names, alerts):
    for field in ["severity: (critical|warning)", "summary: \\S", "description: \\S", f"runbook_url: docs/operations.md#{name.lower()}$"]:
        if not re.search(rf"^ +{field}", alert, flags=re.MULTILINE):
            wrong.append(f"rules.yml: {name} has no {field}")
for document in DOCUMENTS:
    headings = re.findall(r"^### (DataPatch\w+)$", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE)
    wrong += [f"{document}: no section {name}" for name in names if name not in headings]
    wrong += [f"{document}: {name} is no alert" for name in headings if name not in names]
if wrong or not names:
    sys.exit("\n".join(wrong or ["rules.yml has no alerts"]))
print(f"{len(names)} alerts, each with its section in {' and '.join(DOCUMENTS)}")
