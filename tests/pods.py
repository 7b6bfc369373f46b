"""Snakemake with a stand-in for a Kubernetes cluster: each pod is an empty folder, in which its command runs.

python pods.py FOLDER [arguments of snakemake]; FOLDER gets a folder, a log and the specification of each pod.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes.client
import kubernetes.config


class Cluster:
    """What the executor plugin asks of both APIs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets: dict[str, str] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        # the image has all packages
        pip = folder / "bin" / "pip"
        pip.parent.mkdir(parents=True)
        pip.write_text("#!/bin/sh\n")
        pip.chmod(0o755)

    def create_namespaced_secret(self, namespace: str, secret: Any) -> None:
        self.secrets |= {key: base64.b64decode(value).decode() for key, value in secret.data.items()}

    def create_namespaced_job(self, namespace: str, body: Any) -> None:
        name = body.metadata.name
        container = body.spec.template.spec.containers[0]
        plain = kubernetes.client.ApiClient().sanitize_for_serialization(body)
        (self.folder / f"{name}.json").write_text(json.dumps(plain))
        (self.folder / name).mkdir()
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        given = {each.name: self.secrets[each.value_from.secret_key_ref.key] for each in container.env}
        with open(self.folder / f"{name}.log", "wb") as log:
            self.running[name] = subprocess.Popen(
                [*container.command, *container.args],
                cwd=self.folder / name,
                env={"PATH": path, "HOME": str(self.folder), "OMP_NUM_THREADS": "1"} | given,
                stdout=log,
                stderr=log,
            )

    def read_namespaced_job_status(self, name: str, namespace: str) -> Any:
        code = self.running[name].poll()
        return SimpleNamespace(status=SimpleNamespace(succeeded=int(code == 0), failed=int(code not in (None, 0))))

    def list_namespaced_pod(self, **_: Any) -> Any:
        return SimpleNamespace(items=[])

    def delete_namespaced_job(self, *_: Any, **__: Any) -> None:
        pass

    delete_namespaced_secret = delete_namespaced_job


if __name__ == "__main__":
    import snakemake.cli

    cluster = Cluster(Path(sys.argv.pop(1)))
    kubernetes.config.load_kube_config = lambda: None
    kubernetes.client.CoreV1Api = kubernetes.client.BatchV1Api = lambda: cluster
    snakemake.cli.main()
