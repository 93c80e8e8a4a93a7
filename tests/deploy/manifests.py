"""What lies in deploy/kubernetes, as `kubectl kustomize` renders it."""

import subprocess
from functools import cache

import yaml

from .servers import ROOT, require

KUBERNETES = ROOT / "deploy" / "kubernetes"
VARIANTS = ("base", "gpu")


@cache
def rendered(variant):
    """The YAML text that would be applied."""
    require("kubectl")
    command = ["kubectl", "kustomize", str(KUBERNETES / variant)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(variant):
    """Kind → the object of that kind; there is one of each."""
    found = list(yaml.safe_load_all(rendered(variant)))
    by_kind = {each["kind"]: each for each in found}
    assert len(by_kind) == len(found)
    return by_kind


def job(variant):
    """The spec of the Job that the CronJob makes."""
    return objects(variant)["CronJob"]["spec"]["jobTemplate"]["spec"]


def container(variant):
    """The one container of its Pods."""
    (found,) = job(variant)["template"]["spec"]["containers"]
    return found


def reaction(code, variant="base"):
    """What the Job makes of a Pod that ends with an exit code: done, job fails, or the Pod is replaced."""
    if code == 0:
        return "done"
    for rule in job(variant)["podFailurePolicy"]["rules"]:
        on = rule.get("onExitCodes", {"values": []})
        if code in on["values"]:
            assert on["operator"] == "In"
            return {"FailJob": "fails"}[rule["action"]]
    return "replaced"
