"""The alerts and the dashboard: Prometheus' own tool runs their tests, and they name nothing that does not exist."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import Metric

from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Metrics
from tests.conftest import not_tested
from tests.deploy.documents import ALERTS, DASHBOARD, DEPLOY, alerts, console_paths, panels, read_yaml, sections, table

SERIES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
SHARED = "backlog|oldest_event_age_seconds|overdue_seconds|dead_letters|installations|installations_paused|breaker_open"


def promtool(*arguments: object) -> str:
    if (command := shutil.which("promtool")) is None:
        not_tested("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run([command, *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def metrics() -> list[Metric]:
    """What the code has."""
    return list(Metrics("1.2.3").registry.collect())


def published(metric: Metric) -> str:
    """Its name on `/metrics`."""
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def named(expression: str) -> set[str]:
    return set(re.findall(r"\bdispatcher_\w+", expression))


@pytest.mark.gate
def test_the_alerts_pass_their_unit_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", ALERTS.with_name("alerts_test.yaml"))


def test_each_alert_has_been_seen_firing() -> None:
    tests = read_yaml(ALERTS.with_name("alerts_test.yaml"))["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == set(alerts())


@pytest.mark.gate
def test_the_configuration_of_compose_is_valid() -> None:
    assert "SUCCESS" in promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_leads_to_its_heading_in_the_runbook(alert: str) -> None:
    document, _, anchor = alerts()[alert]["annotations"]["runbook_url"].partition("#")
    assert document == "deploy/runbook.md"
    assert [one.title for one in sections("runbook.md") if one.anchor == anchor] == [alert]


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_and_its_entry_in_the_runbook_lead_to_the_same_page_of_the_console(alert: str) -> None:
    """`tests/console/test_deep_links.py` opens it."""
    path = alerts()[alert]["annotations"]["console_path"]
    assert console_paths()[alert] == [re.sub(r"[?&]reason={{ \$labels\.reason }}$", "", path)]


def test_each_panel_links_to_the_console_whose_address_is_a_variable() -> None:
    """Grafana cannot hide a link while a variable is empty: it begins with the address where the console listens unless told otherwise."""
    (variable,) = (one for one in DASHBOARD["templating"]["list"] if one["name"] == "console")
    settings = Settings()
    address = f"http://{settings.console_host}:{settings.console_port}"
    assert (variable["type"], variable["query"], variable["current"]["value"]) == ("textbox", address, address)
    for panel in panels():
        (link,) = panel["fieldConfig"]["defaults"]["links"]
        assert link["url"].startswith("${console:raw}/"), panel["title"]
        for label in re.findall(r"\$\{__field\.labels\.(\w+)\}", link["title"] + link["url"]):
            assert all(f"by ({label})" in target["expr"] for target in panel["targets"]), panel["title"]


def test_alerts_and_dashboard_use_only_metrics_that_exist() -> None:
    used = {name for text in [*(rule["expr"] for rule in alerts().values()), *queries()] for name in named(text)}
    assert used <= {metric.name + suffix for metric in metrics() for suffix in SERIES[metric.type]}


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name.removesuffix("_bucket") for query in queries() for name in named(query)}
    assert shown == {published(metric) for metric in metrics()}


@pytest.mark.gate
def test_the_queries_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m").replace("$job", ".+")}
        for number, query in enumerate(queries())
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", path)


def test_figures_of_the_whole_database_are_not_added_up() -> None:
    assert not [query for query in queries() if re.search(rf"sum(?: by \([\w, ]+\) )?\(dispatcher_({SHARED})\b", query)]


def test_the_panels_do_not_overlap() -> None:
    taken = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_the_table_of_metrics_is_the_codes() -> None:
    told = {
        name: (kind, re.findall(r"`(\w+)`", labels), meaning)
        for name, (kind, labels, meaning) in table("README.md", "Metrics").items()
    }
    assert told == {
        published(metric): (metric.type, labels, metric.documentation)
        for metric, labels in zip(metrics(), _labels(), strict=True)
    }


def _labels() -> list[list[str]]:
    """Of each metric, also of one without samples: the client tells them nowhere else."""
    return [list(getattr(collector, "_labelnames", ())) for collector in Metrics("1.2.3").registry._collector_to_names]
