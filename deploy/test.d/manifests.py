"""Holds the Kubernetes manifest against the project, the Helm chart against the manifest, and its values against their schema."""

import json
import re
import sys
import tomllib
from pathlib import Path

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/data-patch"
# In the chart alone: what Helm needs, and a Service's type and an image's policy that are Kubernetes' defaults.
CHART_ONLY = {("PersistentVolumeClaim", "metadata.annotations"), ("Deployment", "spec.template.metadata.annotations"),
              ("Service", "spec.type"), ("Deployment", "spec.template.spec.containers.0.imagePullPolicy")}
wrong = []


def expect(what, is_so):
    if not is_so:
        wrong.append(what)


def documents(path):
    return {document["kind"]: document for document in yaml.safe_load_all(Path(path).read_text(encoding="utf-8")) if document}


def differences(kind, one, other, path=""):
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(kind, one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, pair in enumerate(zip(one, other)):
            yield from differences(kind, *pair, f"{path}.{at}")
    elif one != other and (kind, path) not in CHART_ONLY:
        yield f"{kind} {path}: {one!r} in the manifest, {other!r} in the chart"


cargo = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["package"]
config = tomllib.loads((ROOT / "config.toml").read_text(encoding="utf-8"))
dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
manifest = documents(ROOT / "deploy/kubernetes/data-patch.yaml")
deployment = manifest["Deployment"]["spec"]
pod = deployment["template"]["spec"]
container = pod["containers"][0]

expect("the queue has one process at a time", deployment["replicas"] == 1 and deployment["strategy"] == {"type": "Recreate"})
expect("Kubernetes' own DATA_PATCH_… variables would stop the start", pod["enableServiceLinks"] is False)
expect("it is killed while it stops", pod["terminationGracePeriodSeconds"] > config["server"]["shutdown_seconds"])
expect("the image is not this version", container["image"] == f"data-patch:{cargo['version']}")
expect("the user is not the image's", f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in dockerfile)
expect("the queue is not on the volume",
       re.search(r"DATA_PATCH_QUEUE_URL=sqlite://(\S+)/", dockerfile)[1] in [mount["mountPath"] for mount in container["volumeMounts"]])
port = int(config["server"]["listen"].rsplit(":", 1)[1])
expect("the ports differ", port == container["ports"][0]["containerPort"] == manifest["Service"]["spec"]["ports"][0]["port"])
for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
    expect(f"{probe} does not ask /healthz", container[probe]["httpGet"] == {"path": "/healthz", "port": "http"})
for option, values in tomllib.loads(manifest["ConfigMap"]["data"]["config.toml"]).items():
    expect(f"[{option}] has options that do not exist", values.keys() <= config[option].keys())
# https://kubernetes.io/docs/concepts/security/pod-security-standards/, restricted
inner, outer = container["securityContext"], pod["securityContext"]
expect("the pod is not restricted",
       inner["allowPrivilegeEscalation"] is False and inner["capabilities"] == {"drop": ["ALL"]} and outer["runAsNonRoot"] is True
       and outer["runAsUser"] != 0 and outer["seccompProfile"] == {"type": "RuntimeDefault"})
expect("the root file system can be written", inner["readOnlyRootFilesystem"] is True)

chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
expect("Chart.yaml is not of this version", chart["version"] == chart["appVersion"] == cargo["version"])
schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
wrong += [f"values.yaml: {error.json_path}: {error.message}" for error in validator.iter_errors(values)]
for bad in [{"imge": {}}, {"service": {"type": "ClusterIP", "port": 0}}, {"storage": {"size": "much"}}, {"secretName": ""},
            {"files": {"config.toml": ""}}, {"files": {"ca.pem": 1}}]:
    expect(f"values.schema.json takes {bad}", not validator.is_valid(values | bad))

expect("several pods share a queue file", not validator.is_valid(values | {"replicas": 2}))
expect("the queue in PostgreSQL has no several pods", validator.is_valid(values | {"replicas": 3, "queue": "postgres"}))

if len(sys.argv) > 1:
    rendered = documents(sys.argv[1])
    expect("the chart has other objects", rendered.keys() == manifest.keys())
    for kind, document in manifest.items():
        wrong += differences(kind, document, rendered.get(kind))
if len(sys.argv) > 2:
    cluster = documents(sys.argv[2])
    spec = cluster["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    expect("a cluster has a volume for a queue file",
           "PersistentVolumeClaim" not in cluster and "queue" not in [volume["name"] for volume in pod["volumes"]])
    expect("a cluster has no three pods that are replaced one by one",
           spec["replicas"] == 3 and spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 1)
if wrong:
    sys.exit("\n".join(wrong))
print(f"{len(manifest)} objects fit the project" + (", and the chart makes the same" if len(sys.argv) > 1 else ""))
