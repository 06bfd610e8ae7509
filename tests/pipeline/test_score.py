"""Batch inference as a pipeline of one notebook."""

import json

import pandas as pd
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.soak
def test_notebook_scores_shows_what_it_did_and_goes_on_from_there(project):
    project.build()
    pd.DataFrame({"id": range(50), "x": [*range(49), -1.0]}).to_csv(project.path / "new.csv", index=False)
    command = [
        "ploomber",
        "build",
        "--entry-point",
        "pipeline.score.yaml",
        "--env--model",
        "toy",
        "--env--input",
        "new.csv",
    ]
    command += ["--env--output", "scores", "--env--max_rejects", "0.1", "--env--probability", "true"]
    output = [project.run(*command, "--env--engine", engine) for engine in ("papermill", "ploomber-engine")]
    assert [done.returncode for done in output] == [0, 0], output[-1].stdout + output[-1].stderr
    place = project.path / "products" / "score" / "toy"
    job = json.loads((place / "job.json").read_text())
    assert (job["state"], job["rows"], job["rejected"]) == ("finished", 49, 1)
    scores = pd.read_parquet(project.path / "scores")
    assert scores["id"].tolist() == [str(i) for i in range(49)]
    assert "probability_1" in scores
    shown = (place / "score.ipynb").read_text()
    assert "Nothing to do: job" in shown
    assert "expected a number of at least 0" in shown


def test_misspelt_option_of_the_score_pipeline_is_refused(project):
    done = project.run("ploomber", "build", "--entry-point", "pipeline.score.yaml", "--env--tabel", "scores")
    assert done.returncode != 0
    assert "tabel" in done.stderr
