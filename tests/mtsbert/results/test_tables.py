"""Tests the table of results at the end of a run."""

from mtsbert.results.tables import results_table


def test_one_line_per_task_and_metric_one_column_per_split():
    metrics = {
        "train_runtime": 3.0,
        "eval_topic_accuracy": 0.91234,
        "eval_topic_2_accuracy": 0.5,
        "eval_composite": 0.7,
        "eval_runtime": 1.0,
        "test_topic_accuracy": 0.9,
        "test_loss": 1.0,
    }
    assert results_table(metrics, ["topic", "topic_2"]) == (
        "| task    | metric    | validation | test   |\n"
        "|---------|-----------|------------|--------|\n"
        "| topic   | accuracy  | 0.9123     | 0.9000 |\n"
        "| topic_2 | accuracy  | 0.5000     |        |\n"
        "| all     | composite | 0.7000     |        |\n"
        "| all     | loss      |            | 1.0000 |"
    )
