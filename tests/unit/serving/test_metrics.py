"""Figures for Prometheus."""

from __future__ import annotations

import math
from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from bccp.serving.http.metrics import MAX_CHANNELS, MAX_CLASSES, Metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def test_all_that_happens_is_counted_under_the_names_that_dashboards_use() -> None:
    metrics = Metrics()
    model = SimpleNamespace(name="bccp", version=2, digest="a")
    metrics.watch(queued=lambda: 5, pending=lambda: math.nan, lost=lambda: 4, model=lambda: model)
    metrics.predicted(3, "ant", "api")
    metrics.predicted(None, "</script>", "app")
    metrics.problem("busy")
    metrics.answered("/predict", 0.003)
    metrics.batch_images.observe(7)
    metrics.reloaded("failed")
    metrics.voted("vote", "api")
    metrics.text()
    model = SimpleNamespace(name="bccp", version=3, digest="b")
    found = samples(metrics)
    assert found["bccp_predictions_total", (("channel", "api"), ("class", "ant"), ("model_version", "3"))] == 1
    assert found["bccp_predictions_total", (("channel", "app"), ("class", "</script>"), ("model_version", ""))] == 1
    assert found["bccp_errors_total", (("problem", "busy"),)] == 1
    assert found["bccp_request_duration_seconds_bucket", (("le", "0.005"), ("route", "/predict"))] == 1
    assert found["bccp_batch_images_sum", ()] == 7
    assert found["bccp_queue_images", ()] == 5
    assert [key for key in found if key[0] == "bccp_model_info"] == [
        ("bccp_model_info", (("digest", "b"), ("name", "bccp"), ("version", "3")))
    ]
    assert found["bccp_model_reloads_total", (("outcome", "failed"),)] == 1
    assert found["bccp_feedback_total", (("channel", "api"), ("kind", "vote"))] == 1
    assert math.isnan(found["bccp_feedback_pending", ()])
    assert found["bccp_recording_lost_total", ()] == 4


def test_names_that_callers_choose_make_no_series_without_end() -> None:
    metrics = Metrics()
    for n in range(300):
        metrics.predicted(1, f"class {n}", "api")
        metrics.voted("vote", f"channel-{n}")
    found = samples(metrics)
    assert len([key for key in found if key[0] == "bccp_predictions_total"]) == MAX_CLASSES + 1
    assert found["bccp_predictions_total", (("channel", "api"), ("class", "other"), ("model_version", "1"))] == 300 - MAX_CLASSES
    assert len([key for key in found if key[0] == "bccp_feedback_total"]) == MAX_CHANNELS  # "api" is one of them, and so is "other"
