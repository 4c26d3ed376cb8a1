"""What every registered metric does: it scores, its score is JSON, and it says what is missing."""

import dataclasses
import json
from pathlib import Path

from samples import features, make_samples, score  # noqa: F401 - fixtures

from t2i_backdoor_bench import metrics as package
from t2i_backdoor_bench.contract import metrics

AUDITS = ("judge_agreement", "asked_agreement", "judge_triggered", "asked_triggered")
NAMES = {
    "asr",
    "removal_accuracy",
    "restoration_accuracy",
    "residue",
    "fidelity_before",
    "restored_relative",
    "false_trigger_rate",
    "asr_moved",
    "asr_decoy",
    "prompt_fidelity",
    "robustness",
    "drift",
    "fid",
    "fid_before",
    "fid_floor",
    "fid_inception",
    "kid",
    "kid_second",
    "kid_added",
    "clip_score",
    "clip_score_triggered",
    "diversity",
    "vendi",
    "seconds",
    "peak_memory_mb",
    "parameters",
    "guidance_ratio",
}


def test_every_metric_scores_json_and_says_what_is_missing(features):
    metrics.load()
    assert set(metrics.entries) >= NAMES
    samples = make_samples()
    empty = dataclasses.replace(samples, images={}, before={}, cost={})
    for name, entry in metrics.entries.items():
        assert entry.summary
        result = score(name, samples, features)
        json.dumps(dataclasses.asdict(result))
        # of detectors, locators, probes, weights and the embedded world: these samples have none
        if entry.only not in ("", "undefended") or name in AUDITS:
            assert result.value is None
            assert result.note, name
            continue
        if name not in ("fid_inception", "peak_memory_mb", "seconds_picture"):
            assert result.value is not None, name
            assert type(result.value) is float
        if entry.percent:  # a share
            assert all(type(v) is bool for v in result.each)
            assert 0 <= result.low <= result.value <= result.high <= 1
            assert result.n == len(result.each)
        assert score(name, samples, features) == result  # the same again
        gone = score(name, empty, features)
        assert gone.value is None
        assert gone.note


def test_metric_files_import_bench_and_libraries_only():
    files = list(Path(package.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        for line in file.read_text().splitlines():
            if line.startswith(("import ", "from ")):
                assert line.split()[1].split(".")[0] not in (
                    "metrics",
                    "attacks",
                    "defenses",
                    "run_bench",
                ), (file, line)
