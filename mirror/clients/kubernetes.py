"""Kubernetes with containerd: a DaemonSet that installs hosts.toml on each node."""

from __future__ import annotations

from textwrap import indent

from mirror.clients.address import Mirrored
from mirror.clients.client import Client, node_advice
from mirror.clients.containerd import hosts_file

_MANIFESTS = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: registry-mirror
  namespace: kube-system
data:
  hosts.toml: |
{hosts}
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: registry-mirror
  namespace: kube-system
  labels:
    app.kubernetes.io/name: registry-mirror
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: registry-mirror
  template:
    metadata:
      labels:
        app.kubernetes.io/name: registry-mirror
    spec:
      automountServiceAccountToken: false
      tolerations:
        - operator: Exists
      initContainers:
        - name: install
          image: docker.io/library/busybox:1.37
          command:
            - sh
            - -ec
            - |
              mkdir -p /certs.d/_default
              cd /certs.d/_default
              cmp -s /configuration/hosts.toml hosts.toml && exit 0
              if [ -e hosts.toml ]; then cp -p hosts.toml "hosts.toml.bak-$(date +%Y%m%dT%H%M%S)"; fi
              cp /configuration/hosts.toml hosts.toml.new
              mv hosts.toml.new hosts.toml
          resources:
            limits:
              memory: 32Mi
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
          volumeMounts:
            - name: configuration
              mountPath: /configuration
              readOnly: true
            - name: certs
              mountPath: /certs.d
      containers:
        - name: rest
          image: registry.k8s.io/pause:3.10
          resources:
            limits:
              memory: 16Mi
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            runAsNonRoot: true
            runAsUser: 65535
      volumes:
        - name: configuration
          configMap:
            name: registry-mirror
        - name: certs
          hostPath:
            path: /etc/containerd/certs.d
            type: DirectoryOrCreate
"""


def _manifests(_: str | None, mirrored: Mirrored) -> str:
    return _MANIFESTS.format(hosts=indent(hosts_file(None, mirrored).rstrip("\n"), " " * 4))


def _advice(mirrored: Mirrored) -> list[str]:
    return [
        "Apply the manifests: mirror client-config kubernetes … | kubectl apply -f -",
        "They replace _default/hosts.toml on every node, and keep a backup of an existing file beside it",
        (
            "containerd's config.toml on the nodes must name the directory: "
            'config_path = "/etc/containerd/certs.d". For k3s, use mirror client-config k3s'
        ),
        *node_advice(mirrored),
    ]


KUBERNETES = Client("kubernetes", None, _manifests, _advice)
