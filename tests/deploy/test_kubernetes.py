"""The manifests: valid by Kubernetes' own schemas, composed as `kubectl apply -k` does, and consistent with the code."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from starlette.requests import Request

from dispatcher.cli.service import HEALTH_TIMEOUT_SECONDS
from dispatcher.console.access import choose_access
from dispatcher.policy.hosts import is_local
from dispatcher.settings.settings import Settings, load_settings
from tests.conftest import not_tested
from tests.deploy.documents import DEPLOY, IMAGE, VERSION, is_command, read_yaml

MANIFESTS = DEPLOY / "kubernetes"
VARIANTS = ("console", "drain", "example", "migrate", "standalone")
# The oldest with native sidecars, and the newest whose schemas are at hand.
RELEASES = ("1.29", kubernetes_validate.latest_version())
NOT_KUBERNETES = {"Kustomization", "Component", "PodMonitor", "PrometheusRule"}
"""Kinds without a schema of Kubernetes' own."""
# Without the patches of the sidecar.
WHOLE = [path for path in MANIFESTS.rglob("*.yaml") if path.stem not in {"sidecar", "ops-port"}]
ASK = {"command": ["dispatcher", "health"]}
SECRETS = "/etc/vercel-outbox-dispatcher"
SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
URL = "postgres://partner@database/partner"
Resource = dict[str, Any]


def compose(variant: str, manifests: Path = MANIFESTS) -> list[Resource]:
    """What `kubectl apply -k` would apply."""
    if (command := shutil.which("kubectl")) is None:
        not_tested("kubectl is not installed")
    done = subprocess.run([command, "kustomize", manifests / variant], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def find(resources: list[Resource], kind: str) -> Resource:
    """The only one of this kind."""
    (found,) = (resource for resource in resources if resource["kind"] == kind)
    return found


def pod_template(resource: Resource) -> Resource:
    spec = resource["spec"]
    template: Resource = (spec["jobTemplate"]["spec"] if resource["kind"] == "CronJob" else spec)["template"]
    return template


def pods(resources: list[Resource]) -> list[Resource]:
    return [pod_template(one)["spec"] for one in resources if one["kind"] in {"CronJob", "Deployment", "Job"}]


def dispatchers(pod: Resource) -> list[Resource]:
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    return [container for container in containers if IMAGE in container["image"]]


def selects(selector: dict[str, str], resource: Resource) -> bool:
    labels: dict[str, str] = pod_template(resource)["metadata"]["labels"]
    return selector.items() <= labels.items()


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_resource_is_valid(variant: str, release: str) -> None:
    resources = [one for one in compose(variant) if one["kind"] not in NOT_KUBERNETES]
    assert pods(resources)
    for resource in resources:
        kubernetes_validate.validate(resource, release, strict=True)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("path", [path for path in WHOLE if read_yaml(path)["kind"] not in NOT_KUBERNETES])
def test_every_file_is_valid_as_it_stands(path: Path, release: str) -> None:
    """Also where there is no kubectl to compose them. Raises ValidationError for one that is not."""
    kubernetes_validate.validate(read_yaml(path), release, strict=True)


@pytest.mark.parametrize("path", [path for path in MANIFESTS.rglob("*.yaml") if path.stem != "kustomization"])
def test_every_manifest_is_part_of_its_kustomization(path: Path) -> None:
    kustomization = read_yaml(path.with_name("kustomization.yaml"))
    patches = [patch["path"] for patch in kustomization.get("patches", [])]
    assert path.name in [*kustomization.get("resources", []), *patches]


def test_the_sidecar_stops_after_the_application_and_does_not_hold_it_back() -> None:
    pod = pod_template(find(compose("example"), "Deployment"))["spec"]
    assert [one["name"] for one in pod["containers"]] == ["application"]
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert "startupProbe" not in sidecar
    assert pod["terminationGracePeriodSeconds"] > Settings().shutdown_grace + 30


def test_the_patch_is_for_labelled_deployments_only(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path, dirs_exist_ok=True)
    application = tmp_path / "example" / "application.yaml"
    application.write_text(application.read_text().replace("vercel-outbox-dispatcher: sidecar", "another: label"))
    (pod,) = pods(compose("example", tmp_path))
    assert not dispatchers(pod)


def settings_in(container: Resource, mounted: Path) -> Settings:
    """The settings, with the Secret of the deployment guide in `mounted`."""
    (mounted / "database-url").write_text(f"{URL}\n")
    variables = {one["name"]: one["value"] for one in container["env"]}
    return load_settings({name: value.replace(SECRETS, str(mounted)) for name, value in variables.items()})


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_secret_is_a_file_and_no_variable_holds_one(variant: str, tmp_path: Path) -> None:
    (pod,) = pods(compose(variant))
    (container,) = dispatchers(pod)
    assert settings_in(container, tmp_path).database_url.get_secret_value() == URL
    assert {"name": IMAGE, "mountPath": SECRETS, "readOnly": True} in container["volumeMounts"]
    assert {"name": IMAGE, "secret": {"secretName": IMAGE}} in pod["volumes"]
    assert container["envFrom"] == [{"configMapRef": {"name": IMAGE}}]
    assert not [one for one in container["env"] if "valueFrom" in one]


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_dispatcher_has_a_token_of_the_cluster(variant: str) -> None:
    (pod,) = pods(compose(variant))
    assert pod["automountServiceAccountToken"] is False


def test_a_sidecar_has_no_token_of_the_cluster_even_if_its_application_has_one(tmp_path: Path) -> None:
    """Kubernetes adds the token to no container that mounts something else in its place."""
    shutil.copytree(MANIFESTS, tmp_path, dirs_exist_ok=True)
    application = tmp_path / "example" / "application.yaml"
    application.write_text(application.read_text().replace("automountServiceAccountToken: false", ""))
    (pod,) = pods(compose("example", tmp_path))
    assert "automountServiceAccountToken" not in pod
    (container,) = dispatchers(pod)
    (shadow,) = (one for one in container["volumeMounts"] if one["mountPath"] == SERVICE_ACCOUNT_TOKEN)
    assert {"name": shadow["name"], "emptyDir": {}} in pod["volumes"]
    assert not any("volumeMounts" in one for one in pod["containers"])


def test_the_sidecar_is_asked_inside_the_pod_and_never_taken_out_of_service(tmp_path: Path) -> None:
    (container,) = dispatchers(pods(compose("example"))[0])
    assert settings_in(container, tmp_path).ops_host == "127.0.0.1"
    assert container["livenessProbe"]["exec"] == ASK
    assert not {"ports", "readinessProbe"} & container.keys()


def test_an_exec_probe_outlasts_the_commands_own_patience() -> None:
    (container,) = dispatchers(pods(compose("example"))[0])
    assert container["livenessProbe"]["timeoutSeconds"] > HEALTH_TIMEOUT_SECONDS


def test_the_standalone_is_asked_from_outside_the_pod_and_taken_out_of_service(tmp_path: Path) -> None:
    (container,) = dispatchers(pods(compose("standalone"))[0])
    settings = settings_in(container, tmp_path)
    assert settings.ops_host == "0.0.0.0"  # noqa: S104 (what it has to be, not bound)
    assert container["ports"] == [{"name": "ops", "containerPort": settings.ops_port}]
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "ops"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_dispatcher_may_as_little_as_possible(variant: str) -> None:
    for pod in pods(compose(variant)):
        for container in dispatchers(pod):
            context = pod.get("securityContext", {}) | container["securityContext"]
            assert context == {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_dispatcher_runs_a_command_of_this_release(variant: str) -> None:
    for pod in pods(compose(variant)):
        for container in dispatchers(pod):
            assert is_command(container["args"])
            assert container["image"].endswith(f"{IMAGE}:{VERSION}")


@pytest.mark.parametrize("variant", ["example", "standalone"])
def test_a_dispatcher_has_time_to_end(variant: str) -> None:
    (pod,) = pods(compose(variant))
    assert pod["terminationGracePeriodSeconds"] >= Settings().shutdown_grace + 5


def test_what_selects_the_standalone_dispatchers_selects_them() -> None:
    resources = compose("standalone")
    deployment = find(resources, "Deployment")
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        assert selects(find(resources, kind)["spec"]["selector"]["matchLabels"], deployment)
    assert selects(find(resources, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"], deployment)
    (endpoint,) = find(resources, "PodMonitor")["spec"]["podMetricsEndpoints"]
    (container,) = pod_template(deployment)["spec"]["containers"]
    assert [port["name"] for port in container["ports"]] == [endpoint["port"]]


@pytest.fixture
def monitored(tmp_path: Path) -> list[Resource]:
    """The example with the second component of the sidecar, as the guide says."""
    shutil.copytree(MANIFESTS, tmp_path, dirs_exist_ok=True)
    kustomization = tmp_path / "example" / "kustomization.yaml"
    text = kustomization.read_text().replace("  - ../sidecar\n", "  - ../sidecar\n  - ../sidecar-monitoring\n")
    kustomization.write_text(text)
    return compose("example", tmp_path)


def test_the_sidecar_can_be_scraped(monitored: list[Resource], tmp_path: Path) -> None:
    deployment, monitor = find(monitored, "Deployment"), find(monitored, "PodMonitor")["spec"]
    (container,) = dispatchers(pod_template(deployment)["spec"])
    settings = settings_in(container, tmp_path)
    assert selects(monitor["selector"]["matchLabels"], deployment)
    assert settings.ops_host == "0.0.0.0"  # noqa: S104 (what it has to be, not bound)
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert container["ports"] == [{"name": endpoint["port"], "containerPort": settings.ops_port}]
    assert container["livenessProbe"]["exec"] == ASK
    kubernetes_validate.validate(deployment, RELEASES[0], strict=True)


def test_each_alert_of_the_operator_has_an_absolute_link_to_the_runbook(monitored: list[Resource]) -> None:
    expected = read_yaml(DEPLOY / "prometheus" / "alerts.yaml")["groups"]
    (source,) = read_yaml(MANIFESTS / "monitoring" / "kustomization.yaml")["configMapGenerator"]
    published = source["literals"][0].removeprefix("runbook=")
    assert published.startswith("https://")
    for group in expected:
        for rule in group["rules"]:
            notes = rule["annotations"]
            notes["runbook_url"] = notes["runbook_url"].replace("deploy/runbook.md", published)
    for resources in (monitored, compose("standalone")):
        assert find(resources, "PrometheusRule")["spec"]["groups"] == expected
        assert not [one for one in resources if one["kind"] == "ConfigMap"]


def test_each_alert_of_the_operator_leads_to_the_console_if_its_address_is_written_there(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path, dirs_exist_ok=True)
    kustomization = tmp_path / "monitoring" / "kustomization.yaml"
    text = kustomization.read_text()
    kustomization.write_text(text.replace("- console=\n", "- console=https://ops.example.com/outbox\n"))
    given = console_paths(read_yaml(DEPLOY / "prometheus" / "alerts.yaml")["groups"])
    made = console_paths(find(compose("standalone", tmp_path), "PrometheusRule")["spec"]["groups"])
    assert made == {alert: f"https://ops.example.com/outbox{path}" for alert, path in given.items()}


def console_paths(groups: list[Any]) -> dict[str, str]:
    """By alert."""
    return {rule["alert"]: rule["annotations"]["console_path"] for group in groups for rule in group["rules"]}


def test_a_drain_has_no_alert_for_a_service() -> None:
    assert {one["kind"] for one in compose("drain")} == {"CronJob"}


def test_a_drain_ends_before_the_next_one() -> None:
    spec = find(compose("drain"), "CronJob")["spec"]
    (container,) = dispatchers(pods(compose("drain"))[0])
    assert int(container["args"][-1]) < 60
    assert spec["concurrencyPolicy"] == "Forbid"


@pytest.fixture
def console() -> Resource:
    """The Deployment of the console and its proxy."""
    return find(compose("console"), "Deployment")


def proxy_in(deployment: Resource) -> tuple[Resource, dict[str, str]]:
    """The container of oauth2-proxy, and its options."""
    (container,) = (
        one for one in pod_template(deployment)["spec"]["containers"] if not dispatchers({"containers": [one]})
    )
    return container, dict(word.removeprefix("--").split("=", 1) for word in container["args"])


def test_people_reach_the_console_through_its_proxy_only(console: Resource, tmp_path: Path) -> None:
    (container,) = dispatchers(pod_template(console)["spec"])
    proxy, options = proxy_in(console)
    settings = settings_in(container, tmp_path)
    assert options["upstream"] == f"http://{settings.console_host}:{settings.console_port}/"
    assert is_local(settings.console_host)
    assert "ports" not in container
    (port,) = proxy["ports"]
    assert options["http-address"] == f"0.0.0.0:{port['containerPort']}"
    service = find(compose("console"), "Service")["spec"]
    assert selects(service["selector"], console)
    assert [one["targetPort"] for one in service["ports"]] == [port["name"]]
    policy = find(compose("console"), "NetworkPolicy")["spec"]
    assert selects(policy["podSelector"]["matchLabels"], console)
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": port["name"]}]]


def test_the_proxy_names_the_person_and_the_console_believes_it(console: Resource, tmp_path: Path) -> None:
    (container,) = dispatchers(pod_template(console)["spec"])
    _, options = proxy_in(console)
    settings = settings_in(container, tmp_path)
    access = choose_access(settings, "", may_write="--write" in container["args"])
    headers = [(b"x-forwarded-email", settings.console_operators[0].encode())]
    visitor = access.admit(Request({"type": "http", "client": ("127.0.0.1", 1), "headers": headers}))
    assert visitor is not None
    assert visitor.may_write
    assert options["redirect-url"] == f"{settings.console_url}/oauth2/callback"
    assert all(name.endswith(f"@{options['email-domain']}") for name in settings.console_operators)


def test_the_proxy_is_a_release_and_may_as_little_as_the_console(console: Resource) -> None:
    pod = pod_template(console)["spec"]
    (container,) = dispatchers(pod)
    proxy, _ = proxy_in(console)
    assert re.fullmatch(r"[\w./-]+:v\d+\.\d+\.\d+", proxy["image"])
    assert proxy["securityContext"] == container["securityContext"]
    assert not {one["name"] for one in proxy["volumeMounts"]} & {one["name"] for one in container["volumeMounts"]}
    assert "memory" in proxy["resources"]["limits"]


def test_the_consoles_health_is_asked_inside_the_pod(console: Resource, tmp_path: Path) -> None:
    (container,) = dispatchers(pod_template(console)["spec"])
    settings = settings_in(container, tmp_path)
    assert (settings.ops_host, settings.ops_port) == (settings.console_host, settings.console_port)
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["exec"] == ASK
        assert container[probe]["timeoutSeconds"] > HEALTH_TIMEOUT_SECONDS
    proxy, _ = proxy_in(console)
    assert [proxy[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")] == ["/ping", "/ready"]
