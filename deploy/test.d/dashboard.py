"""Holds the Grafana dashboard and the alert rules against what the service says of itself, and the queries against promtool."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from service import get, running

ROOT = Path(__file__).resolve().parents[2]
# Of the classic dashboard model; Grafana 12 and 13 write this one.
SCHEMA_VERSION = 42
# What Prometheus adds: series of its own, and labels that each series has.
PROMETHEUS_METRICS, PROMETHEUS_LABELS = {"up", "ALERTS"}, {"job", "instance", "alertname", "alertstate"}
METRIC = re.compile(r"\b(data_patch_\w+|process_\w+|up|ALERTS)\b")
wrong = []


def exposed(text):
    """The names of all series, with the labels of those that have a value."""
    labels = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, flags=re.MULTILINE):
        for suffix in ["_bucket", "_sum", "_count"] if kind == "histogram" else [""]:
            labels[name + suffix] = set()
    for name, inside in re.findall(r"^(\w+)\{(.*)\} \S+$", text, flags=re.MULTILINE):
        labels[name] |= set(re.findall(r'(\w+)="', inside))
    return labels


def check_names(where, expression, series):
    for name in METRIC.findall(expression):
        if name not in series and name not in PROMETHEUS_METRICS:
            wrong.append(f"{where}: the service has no {name}")
    # Labels of selectors, of grouping, and of legends, where all of the expression's series are known with theirs.
    known = PROMETHEUS_LABELS.union(*(series.get(name, set()) for name in METRIC.findall(expression)))
    used = set(re.findall(r'[{,]\s*(\w+)\s*(?:=~|!~|!=|=)', expression))
    for group in re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expression):
        used |= set(re.findall(r"\w+", group))
    wrong.extend(f"{where}: no series has the label {label}" for label in sorted(used - known))


def check_layout(dashboard, panels):
    if dashboard["schemaVersion"] != SCHEMA_VERSION:
        wrong.append(f"schemaVersion is {dashboard['schemaVersion']}, not {SCHEMA_VERSION}")
    ids = [panel["id"] for panel in panels]
    wrong.extend(f"two panels have the id {number}" for number in {number for number in ids if ids.count(number) > 1})
    taken = {}
    for panel in panels:
        at = panel["gridPos"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            if cell[0] >= 24 or taken.setdefault(cell, panel["id"]) != panel["id"]:
                wrong.append(f"panel {panel['title']} covers another one, or leaves the page")
                break
        if panel["type"] != "row" and not panel.get("description"):
            wrong.append(f"panel {panel['title']} has no description")


def check_syntax(expressions):
    """All of them at once, as the recording rules of a file that is thrown away."""
    variables = {"$__rate_interval": "1m", "$job": "data-patch", "$instance": ".*"}
    rules = []
    for number, expression in enumerate(expressions):
        for variable, value in variables.items():
            expression = expression.replace(variable, value)
        rules.append({"record": f"panel:{number}", "expr": expression})
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        # JSON is YAML.
        json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
        file.flush()
        checked = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
        if checked.returncode != 0:
            wrong.append(checked.stderr)


dashboard = json.loads((ROOT / "deploy/grafana/data-patch.json").read_text(encoding="utf-8"))
panels = [each for panel in dashboard["panels"] for each in [panel, *panel.get("panels", [])]]
prometheus = {"type": "prometheus", "uid": "${datasource}"}
with running(sys.argv[1]) as address:
    series = exposed(get(address, "/metrics"))

check_layout(dashboard, panels)
expressions = []
for panel in panels:
    for target in panel.get("targets", []):
        if target["datasource"] == prometheus:
            expressions.append(target["expr"])
            check_names(f"panel {panel['title']}", target["expr"], series)
            shown = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            check_names(f"legend of {panel['title']}", f"{target['expr']} by ({', '.join(shown)})", series)
        elif target["datasource"]["uid"] != "${loki}":
            wrong.append(f"panel {panel['title']}: its data source is not a variable")
for annotation in dashboard["annotations"]["list"][1:]:
    expressions.append(annotation["expr"])
    check_names(f"annotation {annotation['name']}", annotation["expr"], series)
check_syntax(expressions)

rules = (ROOT / "deploy/prometheus/rules.yml").read_text(encoding="utf-8")
for rule in re.split(r"^      - alert: ", rules, flags=re.MULTILINE)[1:]:
    expression = re.search(r"expr: (?:\|\n)?(.*?)\n        (?:for|labels):", rule, flags=re.DOTALL)[1]
    check_names(f"alert {rule.split()[0]}", expression, series)

if wrong:
    sys.exit("\n".join(wrong))
shown = {name for expression in expressions for name in METRIC.findall(expression)}
print(f"{len(panels)} panels, {len(expressions)} queries of {len(shown)} series, all of them the service's own")
unseen = {re.sub("_(bucket|sum|count)$", "", name) for name in series} - {re.sub("_bucket$", "", name) for name in shown}
if unseen:
    print(f"not on the dashboard: {', '.join(sorted(unseen))}")
