"""The deployment files against the strictest tools that are here; a tool that is not makes its test skip with the reason."""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from attr_actors.settings import Settings

REPO = Path(__file__).resolve().parent.parent.parent
DEPLOY = REPO / "deploy"
CONFIGS = REPO / "cluster_configs"
OVERLAYS = ["base", "overlays/example"]
RAY_KINDS = {"RayService": "rayservices", "RayJob": "rayjobs"}
UNCHECKED = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "RayCronJob"}
"""Kinds without a schema offline; what is inside PrometheusRule and RayCronJob is checked by tests of its own."""


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C is ten times as fast."""


def load(text: str) -> Any:
    return yaml.load(text, LOADER)


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60, cwd=REPO)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@functools.cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """Render an overlay as `kubectl apply -k` would."""
    kubectl = tool("kubectl")
    return [d for d in yaml.load_all(run(kubectl, "kustomize", DEPLOY / "kuberay" / overlay), LOADER) if d]


def by_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [found] = [d for d in documents if d["kind"] == kind]
    return found


def strict(schema: Any) -> Any:
    """Refuse unknown fields, which the API server would drop without a word."""
    if isinstance(schema, dict):
        made = {k: strict(v) for k, v in schema.items()}
        closed = made.get("type") == "object" and made.get("properties") and "additionalProperties" not in made
        return made | {"additionalProperties": False} if closed and not made.get("x-kubernetes-preserve-unknown-fields") else made
    return [strict(item) for item in schema] if isinstance(schema, list) else schema


def crd_schema(shared_dir: Path, plural: str) -> dict[str, Any]:
    crd = load((shared_dir / f"data/kuberay/ray.io_{plural}.yaml").read_text())
    [version] = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {}
    closed: dict[str, Any] = strict(schema)
    return closed


def check(document: dict[str, Any], schema: dict[str, Any]) -> None:
    faults = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in jsonschema.Draft7Validator(schema).iter_errors(document)]
    assert faults == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_kinds_are_valid_strictly(overlay: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    core = [d for d in rendered(overlay) if d["kind"] not in RAY_KINDS and d["kind"] not in UNCHECKED]
    assert len(core) >= 7
    for document in core:
        validate.validate(document, "1.36", strict=True)


def test_ray_kinds_are_valid_against_kuberays_definitions(shared_dir: Path) -> None:
    documents = rendered("overlays/example")
    check(by_kind(documents, "RayService"), crd_schema(shared_dir, "rayservices"))
    jobs = crd_schema(shared_dir, "rayjobs")
    check(by_kind(documents, "RayJob"), jobs)
    nightly = by_kind(documents, "RayCronJob")
    assert set(nightly["spec"]) == {"schedule", "timeZone", "jobTemplate"}
    check(by_kind(documents, "RayJob") | {"spec": nightly["spec"]["jobTemplate"]}, jobs)


def test_pods_of_ray_kinds_are_valid_strictly() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    templates = pod_templates(rendered("overlays/example"))
    assert len(templates) == 10
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"} | template.get("metadata", {}), "spec": template["spec"]}
        validate.validate(pod, "1.36", strict=True)


def pod_templates(node: Any) -> list[dict[str, Any]]:
    """Collect the pod templates of a document tree: mappings with a `spec` that has containers."""
    if isinstance(node, list):
        return [t for item in node for t in pod_templates(item)]
    if not isinstance(node, dict):
        return []
    here = [node] if isinstance(node.get("spec"), dict) and "containers" in node["spec"] else []
    return here + [t for value in node.values() for t in pod_templates(value)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_confined(overlay: str) -> None:
    templates = pod_templates(rendered(overlay))
    assert templates
    for template in templates:
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in spec["containers"]:
            context = container["securityContext"]
            assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            logs = [m for m in container["volumeMounts"] if m["mountPath"] == "/logs"]
            assert all(m["readOnly"] for m in logs)


def test_the_ledger_has_one_pod_one_volume_and_is_handed_over_to_a_second_cluster() -> None:
    spec = by_kind(rendered("base"), "RayService")["spec"]
    assert spec["upgradeStrategy"]["type"] == "NewCluster"
    assert load(spec["serveConfigV2"])["applications"][0]["args"]["ledger_take_over"] is True
    groups = {g["groupName"]: g for g in spec["rayClusterConfig"]["workerGroupSpecs"]}
    ledger = groups["ledger"]
    assert (ledger["minReplicas"], ledger["maxReplicas"]) == (1, 1)
    assert json.loads(json.loads(ledger["rayStartParams"]["resources"])) == {"ledger": 1}
    template = ledger["template"]
    (near,) = template["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert near["topologyKey"] == "kubernetes.io/hostname"
    assert near["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    users = [name for name, g in groups.items() if "attr-actors-ledger" in json.dumps(g)]
    assert users == ["ledger"]
    assert spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_clients_and_prometheus_use_the_address_that_moves_with_the_cluster() -> None:
    service = by_kind(rendered("base"), "RayService")["spec"]["serveService"]
    assert "selector" not in service["spec"]
    monitor = load((DEPLOY / "kuberay/monitoring/servicemonitor.yaml").read_text().split("---")[0])
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [e["port"] for e in monitor["spec"]["endpoints"]] == [p["name"] for p in service["spec"]["ports"]]


def test_the_overlay_changes_image_and_replicas() -> None:
    documents = rendered("overlays/example")
    images = {c["image"] for t in pod_templates(documents) for c in t["spec"]["containers"]}
    assert images == {"registry.example.com/ml/attr-actors:0.1.0", "redis:7.4-bookworm"}
    assert by_kind(documents, "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]["maxReplicas"] == 10


def serve_applications() -> list[tuple[str, dict[str, Any]]]:
    found = [(path.name, load(path.read_text())) for path in sorted(CONFIGS.glob("serve_*.yaml"))]
    manifest = load((DEPLOY / "kuberay/base/rayservice.yaml").read_text())
    return [*found, ("rayservice.yaml", load(manifest["spec"]["serveConfigV2"]))]


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments:DeprecationWarning")  # Ray's own schema on pydantic 2.
@pytest.mark.parametrize(("name", "config"), serve_applications(), ids=lambda v: v if isinstance(v, str) else "")
def test_a_serve_config_is_valid_and_its_arguments_are_settings(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(config)
    [application] = config["applications"]
    assert application["import_path"] == "serve_app.app:build_app"
    arguments = application["args"] | {"allowed_root": str(tmp_path)}
    assert set(arguments) <= set(Settings.model_fields)
    settings = Settings.load(**arguments)
    assert settings.replicas_min <= settings.replicas_max


def test_serve_can_tell_from_the_builder_that_arguments_are_settings() -> None:
    from serve_app.app import build_app

    assert inspect.signature(build_app).parameters["args"].annotation is Settings


def test_the_cluster_launcher_file_is_valid() -> None:
    import ray.autoscaler

    config = load((CONFIGS / "ray_up_onprem.yaml").read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)


def test_the_ray_environment_is_what_the_service_sets_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_app.ray_environment import prepare_environment

    for name in [n for n in os.environ if n.startswith("RAY_")]:
        monkeypatch.delenv(name)
    script = f". {CONFIGS}/ray_environment.sh && env -0"
    out = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}).stdout
    ours = dict(line.split("=", 1) for line in out.split("\0") if line.startswith(("RAY_", "FORWARDED_")))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    prepare_environment()
    own = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"}  # Of `ray start`, which the service does not run.
    places = {name: value for name, value in ours.items() if value.startswith("/tmp/attr-actors-")}
    assert "RAY_SERVE_HAPROXY_SOCKET_PATH" in places
    assert all(
        stat.S_IMODE(os.stat(os.path.dirname(value)).st_mode) == 0o700 for name, value in places.items() if name.endswith("SOCKET_PATH")
    )
    own |= places.keys()
    for name in ours.keys() - own:
        assert ours[name] == os.environ[name], name
    config = load((DEPLOY / "kuberay/base/rayservice.yaml").read_text())["spec"]["rayClusterConfig"]
    for group in (config["headGroupSpec"], *config["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]
        variables = {v["name"]: v["value"] for v in container["env"]}
        for name in ours.keys() - own - {"RAY_AUTH_MODE", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"}:
            assert variables[name] == ours[name], name


def test_a_directory_of_somebody_else_is_not_used_for_haproxys_socket(tmp_path: Path) -> None:
    """Root could change its mode, and its owner could change it back."""
    nobody = 2**31 - 1 - os.getpid()  # Owns nothing here.
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {nobody}\n")
    (tmp_path / "id").chmod(0o755)
    place = Path(f"/tmp/attr-actors-{nobody}")
    place.mkdir()
    try:
        command = [shutil.which("sh") or "sh", "-c", f". {CONFIGS}/ray_environment.sh && env"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    finally:
        place.rmdir()
    assert f"'{place}' belongs to somebody else" in done.stderr
    assert "RAY_SERVE_HAPROXY_SOCKET_PATH" not in done.stdout


def test_without_haproxy_the_service_warns_and_goes_through_serves_own_proxy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    from serve_app.ray_environment import prepare_environment

    (tmp_path / "haproxy").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "haproxy").chmod(0o755)
    for program in (f"{tmp_path}/none", f"{tmp_path}/haproxy"):
        monkeypatch.setattr(os, "environ", {**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": program})
        os.environ.pop("RAY_SERVE_ENABLE_HA_PROXY", None)
        prepare_environment()
        assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert caplog.text.count("HAProxy does not run here") == 2
    bare = {"PATH": f"{Path(sys.executable).parent}:/bin", "RAY_SERVE_HAPROXY_BINARY_PATH": f"{tmp_path}/none"}
    command = [shutil.which("sh") or "sh", "-c", f". {CONFIGS}/ray_environment.sh && echo $RAY_SERVE_ENABLE_HA_PROXY"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=bare)
    assert (done.stdout, "no HAProxy here" in done.stderr) == ("0\n", True)


def test_shell_scripts_have_no_fault_that_shellcheck_knows() -> None:
    scripts = [*DEPLOY.glob("*.sh"), *DEPLOY.glob("*.sbatch"), *CONFIGS.glob("*.sh")]
    assert len(scripts) >= 6
    run(tool("shellcheck"), "--external-sources", *scripts)


def test_images_have_no_fault_that_hadolint_knows() -> None:
    run(tool("hadolint"), DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.ray")


def test_units_are_valid_and_confined(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    units = sorted(DEPLOY.glob("*.service"))
    assert len(units) == 2
    for unit in units:
        copy = tmp_path / unit.name
        # The verifier wants the program to be there; it is installed elsewhere.
        copy.write_text(
            re.sub(r"^ExecStart=/opt/attr-actors/bin/nvrx-attrsvc", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
        )
    assert run(analyze, "verify", *sorted(tmp_path.glob("*.service"))) == ""
    for unit in sorted(tmp_path.glob("*.service")):
        run(analyze, "security", "--offline=true", "--threshold=25", unit)


def test_alert_rules_are_valid(tmp_path: Path) -> None:
    promtool = tool("promtool")
    rule = load((DEPLOY / "kuberay/monitoring/prometheusrule.yaml").read_text())
    plain = load((DEPLOY / "prometheus/alerts.yaml").read_text())
    assert rule["spec"]["groups"][:-1] == plain["groups"], "the alerts of Kubernetes differ from deploy/prometheus/alerts.yaml"
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    assert "SUCCESS" in run(promtool, "check", "rules", tmp_path / "rules.yaml")


def test_the_image_installs_what_the_project_pins() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.count("--constraint deploy/constraints.txt") == 2
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    ignored = (REPO / ".dockerignore").read_text().split()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for word in line.split()]
    assert {f"!{name}" for name in copied} <= set(ignored)
