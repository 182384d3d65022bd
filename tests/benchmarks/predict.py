"""Predicted memory beside measured starts of vLLM, row by row, and what other tools say.

A starred error counts for the aim. Nothing that was learned from a row's own release is used for
it: the published starts (placement/memory/starts.json) are taken without that release.
`--learn` writes those starts anew from the rows of a file.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from controlplane.placement.memory.learning import Start
from tests.benchmarks.memory import peers, scoring, table, truth
from tests.figures import figure

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent / "memory"
TRUTH, CONFIGS = HERE / "vllm_ground_truth.csv", HERE / "configs"
STARTS = ROOT / "platform/controlplane/placement/memory/starts.json"
THEIRS = "gpustack"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", type=Path, default=TRUTH, help="rows of measured starts, CSV")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="config.json by model name")
    parser.add_argument("--learn", action="store_true", help="write the published starts anew")
    chosen = parser.parse_args()
    if not chosen.truth.is_file():
        raise SystemExit(f"no rows of measured starts at {chosen.truth}: name a file by --truth")
    if chosen.learn:
        found = scoring.starts(chosen.configs, truth.rows(chosen.truth))
        STARTS.write_text(written(found))
        print(f"{len(found)} starts written to {STARTS}")
        return
    try:
        scored = scoring.all_of(chosen.truth, chosen.configs)
    except truth.NotRows as error:
        raise SystemExit(str(error)) from None
    print(table.text(scored))
    for tool in peers.OFFLINE:
        print(f"{tool}: {peers.NO_ANSWER}")
    for each in table.uncovered(scored):
        print(f"worse than p95: {each}")
    figures(table.totals(scored))


def written(starts: Sequence[Start]) -> str:
    lines = ",\n".join(f"  {json.dumps(asdict(each))}" for each in starts)
    return f'{{\n "starts": [\n{lines}\n ]\n}}\n'


def figures(found: table.Totals) -> None:
    print(
        f"used: tokens of {len(found.tokens_pct)} rows, weights of {len(found.weights_pct)}, "
        f"KV GiB of {len(found.kv_gib)}; wrong verdicts {found.wrong}"
    )
    figure("predict.kv_tokens_err_max_pct", max(found.tokens_pct, default=0), "%")
    figure("predict.weights_err_max_pct", max(found.weights_pct, default=0), "%")
    mae, worst = found.gpustack_mae, max(found.gpustack_gib, default=0)
    figure("predict.kv_gib_mae", found.kv_mae, "GiB", vs=THEIRS, than=mae)
    figure("predict.kv_gib_err_max", max(found.kv_gib, default=0), "GiB", vs=THEIRS, than=worst)
    figure("predict.rows_used", found.used, "rows")
    figure("predict.rows_refused", found.refused, "rows")
    wrong = found.gpustack_wrong
    figure("predict.verdicts_wrong", found.wrong, "rows", vs=THEIRS, than=wrong)
    figure("predict.worse_than_p95", found.uncovered, "rows")


if __name__ == "__main__":
    main()
